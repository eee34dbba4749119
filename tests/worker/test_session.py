"""The worker's protocol state, without socket, clock or thread."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh_wire import EngineError, messages, pack_body
from mlx_mesh_wire.messages import Flag
from mlx_mesh_worker import sent as results
from mlx_mesh_worker import session as module
from mlx_mesh_worker.runner import Admit, Cancel, Done, Piece, Returned, Trim, Withdraw
from mlx_mesh_worker.session import Session, Vitals
from mlx_mesh_worker.session_actions import Dump, Leave, Reconnect, Renamed, Send, Told

KEY = b"0123456789abcdef"
INFO = messages.Ready(1, 0, b"i" * 16, "w", "h", "m", 1, 1, ["echo"], [], [], 4, 5000, {})
BODY = pack_body("x")


def vitals() -> Vitals:
    return Vitals(3, [1], ["m"], {"rss": 9}, {"hits": 4})


class Bench:
    def __init__(self, *, resumes: bool = False) -> None:
        self.now = 10.0
        self.session = Session(INFO, self.now, resumes=resumes)
        self.session.loaded(INFO, self.now)
        self.session.take()

    def say(self, message: Any, frames: Any = ()) -> list[Any]:
        self.session.message(self.now, message, frames)
        return self.session.take()

    def job(
        self, job_id: int = 1, request_id: int = 1, *, flags: int = 0, window: int = 0, attempt: int = 1
    ) -> list[Any]:
        message = messages.Job(job_id, attempt, KEY, request_id, "echo", "", 1, 5000, flags, window, b"", "")
        return self.say(message, BODY)

    def admitted(self, job_id: int = 1, request_id: int = 1, **kwargs: Any) -> Any:
        (action,) = self.job(job_id, request_id, **kwargs)
        assert isinstance(action, Admit)
        return action.job

    def outcome(self, outcome: Any) -> list[Any]:
        self.session.outcome(self.now, outcome)
        return self.session.take()

    def done(self, job: Any, error: Any = None) -> list[Any]:
        return self.outcome(Done(job, BODY if error is None else (), error, self.now))


def sent(actions: list[Any]) -> list[Any]:
    return [action.message for action in actions if isinstance(action, Send)]


def test_a_worker_says_that_it_loads_and_then_that_it_is_ready() -> None:
    session = Session(INFO, 0.0)
    session.connected(0.0)
    assert [messages.Loading(*INFO)] == sent(session.take())
    session.loaded(INFO, 1.0)
    assert sent(session.take()) == [INFO]


def test_a_job_is_admitted_and_its_result_sent_with_its_times() -> None:
    bench = Bench()
    job = bench.admitted()
    job.started, bench.now = 10.5, 12.0
    (send,) = bench.done(job)
    assert messages.Final(1, 1, 500_000, 1_500_000, 0) == send.message
    assert list(send.frames) == BODY
    assert bench.done(job) == []


def test_an_error_is_sent_with_its_code() -> None:
    bench = Bench()
    (error,) = sent(bench.done(bench.admitted(), EngineError("broken")))
    assert messages.Error(1, "ENGINE_ERROR", "broken", False, 0) == error


def test_a_cancelled_job_is_forgotten_and_its_outcome_not_sent() -> None:
    bench = Bench()
    job = bench.admitted()
    assert [Cancel(job)] == bench.say(messages.Cancel(1))
    assert bench.say(messages.Cancel(1)) == []
    assert bench.done(job) == []


def test_chunks_wait_for_credit_and_the_end_waits_for_the_chunks() -> None:
    bench = Bench()
    job = bench.admitted(window=2)
    for _ in range(4):
        bench.session.outcome(bench.now, Piece(job, BODY))
    assert [messages.Chunk(1, 0), messages.Chunk(1, 1)] == sent(bench.session.take())
    assert job.blocked
    assert bench.done(job) == []
    assert [messages.Chunk(1, 2)] == sent(bench.say(messages.Credit(1, 1)))
    assert [messages.Chunk, messages.Final] == [type(m) for m in sent(bench.say(messages.Credit(1, 5)))]
    assert bench.say(messages.Credit(1, 5)) == []


def test_a_piece_of_what_is_no_stream_is_dropped() -> None:
    bench = Bench()
    assert bench.outcome(Piece(bench.admitted(), BODY)) == []


def test_too_many_waiting_chunks_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_MAX", 3)
    bench = Bench()
    job = bench.admitted(window=1)
    actions = [a for _ in range(6) for a in bench.outcome(Piece(job, BODY))]
    assert Cancel(job) in actions
    assert "SLOW_CONSUMER" in [m.code for m in sent(actions) if isinstance(m, messages.Error)]


def resumed(bench: Bench, *, window: int, seen: int = 3, frames: Any = (*BODY, b"buffer", b"state")) -> Any:
    """Return the job of a stream that goes on behind ``seen`` chunks."""
    flags = Flag.RESUMABLE | Flag.RESUMED
    (action,) = bench.say(messages.Job(1, 2, KEY, 1, "echo", "", 1, 5000, flags, window, b"", "", seen), frames)
    assert isinstance(action, Admit)
    return action.job


def test_a_stream_goes_on_from_its_state_behind_the_chunks_that_were_read() -> None:
    bench = Bench(resumes=True)
    job = resumed(bench, window=2)
    assert (b"state", [*BODY, b"buffer"]) == (job.state, list(job.frames))
    assert [messages.Chunk(1, 3), messages.Chunk(1, 4)] == sent(
        [a for _ in range(2) for a in bench.outcome(Piece(job, BODY))]
    )
    (final,) = sent(bench.done(job))
    assert 5 == final.chunks


@pytest.mark.parametrize(("flags", "window"), [(Flag.RESUMABLE, 4), (Flag.RESUMABLE, 0), (0, 4)])
def test_an_engine_can_tell_whether_it_may_cut_the_chunks_as_it_likes(flags: int, window: int) -> None:
    job = Bench(resumes=True).admitted(flags=flags, window=window)
    assert (None, 0, bool(flags and window)) == (job.state, job.seq, job.resumable)


def test_an_engine_that_cannot_go_on_begins_anew_and_never_sees_the_state() -> None:
    bench = Bench()
    job = resumed(bench, window=2)
    assert (None, [*BODY, b"buffer"]) == (job.state, list(job.frames))
    assert [messages.Chunk(1, 0)] == sent(bench.outcome(Piece(job, BODY)))


def test_a_stream_that_goes_on_waits_for_a_reader_without_room() -> None:
    bench = Bench(resumes=True)
    job = resumed(bench, window=0)
    assert [] == bench.outcome(Piece(job, BODY))
    assert job.blocked
    assert [messages.Chunk(1, 3)] == sent(bench.say(messages.Credit(1, 1)))


def test_a_state_may_be_empty_and_one_that_is_missing_is_not_taken_from_the_body() -> None:
    assert b"" == resumed(Bench(resumes=True), window=2, frames=(*BODY, b"")).state
    job = resumed(Bench(resumes=True), window=2, frames=tuple(BODY))
    assert (None, 0, list(BODY)) == (job.state, job.seq, list(job.frames))


def test_a_reset_is_answered_with_what_is_held_and_ready() -> None:
    bench = Bench()
    bench.admitted(1, 1)
    bench.admitted(2, 2, window=4)
    held, ready = sent(bench.say(messages.Reset("e2")))
    assert held.jobs == [[KEY, 1, 1]]
    assert ready == INFO


def test_resets_for_all_that_was_on_its_way_are_answered_by_one_ready() -> None:
    bench = Bench()
    assert [INFO] == sent(bench.say(messages.Reset("e2")))
    for _ in range(50):
        bench.now += 0.001
        assert bench.say(messages.Reset("e2")) == []


def test_a_reset_of_another_epoch_or_after_a_while_says_that_the_ready_was_lost() -> None:
    bench = Bench()
    bench.say(messages.Reset("e2"))
    assert [INFO] == sent(bench.say(messages.Reset("e3")))
    bench.now += 0.25
    assert [INFO] == sent(bench.say(messages.Reset("e3")))


def test_a_reset_after_the_welcome_is_of_a_connection_that_the_broker_has_lost() -> None:
    bench = Bench()
    bench.say(messages.Reset("e2"))
    bench.say(messages.Welcome(1, 0, "e2", {}, {}))
    assert [INFO] == sent(bench.say(messages.Reset("e2")))


def test_much_that_is_held_takes_several_messages() -> None:
    bench = Bench()
    for index in range(1, 251):
        bench.admitted(index, index)
    assert [len(m.jobs) for m in sent(bench.say(messages.Reset("e2")))[:3]] == [100, 100, 50]


def test_a_job_that_is_held_already_goes_on_under_its_new_id_and_is_not_computed_again() -> None:
    bench = Bench()
    job = bench.admitted(1, 7)
    bench.say(messages.Reset("e2"))
    assert [Renamed()] == bench.job(50, 7, flags=Flag.RESEND, attempt=2)
    assert [messages.Final(50, 2, 0, 0, 0)] == sent(bench.done(job))
    assert bench.session.jobs == {}


def test_a_stream_that_is_held_already_starts_anew() -> None:
    bench = Bench()
    job = bench.admitted(1, 7, window=4)
    cancel, admit = bench.job(50, 7, window=4)
    assert Cancel(job) == cancel
    assert admit.job.id == 50


def test_a_result_that_was_sent_to_a_broker_that_died_with_it_is_sent_again() -> None:
    bench = Bench()
    bench.done(bench.admitted(1, 7))
    (held, _) = sent(bench.say(messages.Reset("e2")))
    assert held.jobs == [[KEY, 7, 1]]
    for job_id in (60, 61):
        (send,) = bench.job(job_id, 7)
        assert (job_id, list(BODY)) == (send.message.id, list(send.frames))


def test_of_a_stream_nothing_is_kept_since_its_chunks_are_gone() -> None:
    bench = Bench()
    bench.done(bench.admitted(1, 7, window=4))
    assert isinstance(bench.job(60, 7, window=4)[0], Admit)


def test_kept_results_are_bounded_in_number_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SENT_EXTRA", 3 - INFO.slots)
    bench = Bench()
    jobs = [bench.admitted(i, i) for i in range(1, 7)]
    for job in jobs:
        bench.done(job)
    assert [entry[1] for entry in sent(bench.say(messages.Reset("e3")))[0].jobs] == [4, 5, 6]
    bench.now += 31
    bench.session.tick(bench.now - 30.5, vitals)
    bench.session.message(bench.now, messages.Pong(1), ())
    bench.session.tick(bench.now, vitals)
    bench.session.take()
    assert sent(bench.say(messages.Reset("e4"))) == [INFO]


def test_a_result_that_is_too_large_to_keep_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SENT_MAX_BYTES", sum(map(len, BODY)) - 1)
    bench = Bench()
    bench.done(bench.admitted(1, 7))
    assert isinstance(bench.job(60, 7)[0], Admit)


def test_at_most_once_that_was_sent_before_and_is_not_held_is_refused() -> None:
    bench = Bench()
    (error,) = sent(bench.job(flags=Flag.AT_MOST_ONCE | Flag.RESEND))
    assert error.code == "WORKER_LOST"


def test_quiet_gives_back_what_has_not_begun_and_takes_nothing_new() -> None:
    bench = Bench()
    begun, waiting = bench.admitted(1, 1), bench.admitted(2, 2)
    begun.started = 1.0
    assert [Withdraw(waiting)] == bench.say(messages.Quiet(True))
    assert [messages.Return(2, "draining")] == sent(bench.outcome(Returned(waiting)))
    assert [messages.Return(3, "draining")] == sent(bench.job(3, 3))
    assert bench.say(messages.Quiet(False)) == []
    assert isinstance(bench.job(4, 4)[0], Admit)


def test_draining_for_good_ends_with_goodbye_when_the_last_job_is_done() -> None:
    bench = Bench()
    job = bench.admitted()
    job.started = 1.0
    bench.session.drain(bench.now)
    assert [messages.Quiet(True)] == sent(bench.session.take())
    bench.say(messages.Quiet(False))
    assert bench.session.draining
    actions = bench.done(job)
    assert [messages.Final, messages.Bye] == [type(m) for m in sent(actions)]
    assert Leave() == actions[-1]


def test_draining_with_nothing_held_or_a_cancelled_rest_leaves_at_once() -> None:
    bench = Bench()
    bench.session.drain(bench.now)
    assert Leave() == bench.session.take()[-1]
    bench = Bench()
    bench.admitted().started = 1.0
    bench.session.drain(bench.now)
    bench.session.take()
    assert Leave() == bench.say(messages.Cancel(1))[-1]


def test_a_draining_worker_says_so_on_a_new_connection() -> None:
    bench = Bench()
    bench.admitted().started = 1.0
    bench.session.drain(bench.now)
    assert messages.Quiet(True) == sent(bench.say(messages.Reset("e2")))[-1]


def test_leaving_in_a_hurry_returns_what_has_not_begun_and_leaves_the_rest_to_the_broker() -> None:
    bench = Bench()
    bench.admitted(1, 1).started = 1.0
    bench.admitted(2, 2)
    bench.session.abandon("hurry")
    actions = bench.session.take()
    assert [messages.Return(2, "hurry"), messages.Bye("hurry")] == sent(actions)
    assert Leave() == actions[-1]


def test_beats_come_at_the_interval_of_the_welcome() -> None:
    bench = Bench()
    bench.say(messages.Welcome(1, 0, "e", {}, {"beat_ms": 200, "silent_ms": 60_000, "ping_ms": 60_000, "other": 1}))
    beats = []
    for _ in range(100):
        bench.now += 0.01
        if bench.now >= bench.session.next_tick():
            bench.session.tick(bench.now, vitals)
        beats += sent(bench.session.take())
    assert len(beats) in (4, 5, 6)
    assert messages.Beat(3, 0, False, [1], ["m"], {"rss": 9}, {"hits": 4}) == beats[0]


def test_a_silent_broker_is_pinged_and_then_the_connection_is_made_anew() -> None:
    bench = Bench()
    seen: list[Any] = []
    for _ in range(600):
        bench.now += 0.01
        bench.session.tick(bench.now, vitals)
        seen += bench.session.take()
    assert messages.Ping(1) in sent(seen)
    assert seen.count(Reconnect()) == 1


def test_pings_are_answered_trims_and_dumps_are_passed_on_and_the_rest_is_ignored() -> None:
    bench = Bench()
    assert [messages.Pong(5)] == sent(bench.say(messages.Ping(5)))
    assert [Trim(2), Trim(0)] == [*bench.say(messages.Trim(2)), *bench.say(messages.Trim(0))]
    assert [Dump("no step for 30 s")] == bench.say(messages.Dump("no step for 30 s"))
    assert bench.say(messages.Status(1)) == []


def test_what_the_broker_complains_of_is_passed_on_for_the_log() -> None:
    bench = Bench()
    for message in (messages.Error(0, "PROTOCOL_ERROR", "no", False, 0), messages.Bye("other version")):
        assert [Told(message)] == bench.say(message)


@pytest.mark.parametrize("news", [messages.Reset("e2"), messages.Welcome(1, 0, "e2", {}, {})])
def test_a_result_of_the_last_epoch_is_no_answer_to_the_job_that_has_its_number_in_this_one(news: Any) -> None:
    bench = Bench()
    old = bench.admitted(1, 7)
    assert Renamed() in bench.say(news)
    new = bench.admitted(1, 8)
    assert [] == bench.done(old)
    assert [Send(messages.Final(1, 1, 0, 0, 0), BODY)] == bench.done(new)
    (send,) = bench.job(2, 7, flags=Flag.RESEND)
    assert send.message.id == 2


def test_what_ends_between_a_new_connection_and_its_welcome_waits_to_be_asked_for() -> None:
    bench = Bench()
    bench.say(messages.Welcome(1, 0, "e1", {}, {}))
    job = bench.admitted(1, 7)
    bench.now += 6
    bench.session.tick(bench.now, vitals)
    assert Reconnect() == bench.session.take()[-1]
    bench.session.connected(bench.now)
    assert [[KEY, 7, 1]] == sent(bench.session.take())[0].jobs
    assert [] == bench.done(job)
    bench.say(messages.Welcome(1, 0, "e1", {}, {}))
    (send,) = bench.job(2, 7)
    assert (2, BODY) == (send.message.id, send.frames)


def test_a_stream_ends_with_its_connection_since_the_broker_has_it_run_again() -> None:
    bench = Bench()
    stream, job = bench.admitted(1, 7, window=4), bench.admitted(2, 8)
    bench.session.connected(bench.now)
    actions = bench.session.take()
    assert Cancel(stream) in actions
    assert [[KEY, 8, 1]] == sent(actions)[0].jobs
    assert [job] == list(bench.session.jobs.values())


def test_a_worker_that_leaves_and_held_but_streams_is_gone_with_its_connection() -> None:
    bench = Bench()
    bench.admitted(1, 7, window=4).started = 1.0
    bench.session.drain(bench.now)
    assert Leave() not in bench.session.take()
    bench.session.connected(bench.now)
    assert Leave() == bench.session.take()[-1]


def test_ids_stay_in_the_same_epoch() -> None:
    bench = Bench()
    bench.say(messages.Welcome(1, 0, "e1", {}, {}))
    job = bench.admitted(1, 7)
    bench.say(messages.Reset("e1"))
    assert job.id == 1


def test_a_stream_of_the_last_epoch_is_cancelled_since_it_has_to_begin_again() -> None:
    bench = Bench()
    stream = bench.admitted(1, 7, window=4)
    assert Cancel(stream) in bench.say(messages.Reset("e2"))
    assert [] == bench.outcome(Piece(stream, BODY))


def test_a_worker_that_leaves_goes_when_a_new_epoch_has_ended_its_last_stream() -> None:
    bench = Bench()
    bench.admitted(1, 7, window=4).started = 1.0
    bench.session.drain(bench.now)
    bench.session.take()
    assert Leave() == bench.say(messages.Reset("e2"))[-1]


@pytest.mark.parametrize("hurry", [False, True])
def test_a_job_of_the_last_epoch_is_not_returned_under_a_number_that_means_another(hurry: bool) -> None:
    bench = Bench()
    job = bench.admitted(1, 7)
    bench.say(messages.Reset("e2"))
    if hurry:
        bench.session.abandon("hurry")
    else:
        bench.session.drain(bench.now)
        bench.outcome(Returned(job))
    assert not any(isinstance(message, messages.Return) for message in sent(bench.session.take()))


def test_a_broker_that_does_not_know_the_connection_runs_streams_again_so_they_end_here() -> None:
    """Its CANCEL for one may have been lost with the connection before; blocked, it would keep its slot for ever."""
    bench = Bench()
    bench.say(messages.Welcome(1, 0, "e", {}, {}))
    held, stream = bench.admitted(1, 1), bench.admitted(2, 2, window=1)
    actions = bench.say(messages.Reset("e"))
    assert [Cancel(stream)] == [action for action in actions if isinstance(action, Cancel)]
    assert {1: held} == bench.session.jobs
    assert [messages.Held(INFO.instance, [[KEY, 1, 1]]), INFO] == sent(actions)
