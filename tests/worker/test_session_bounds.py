"""The moments and amounts at which a worker's session changes its mind, and what it is left with afterwards."""

from __future__ import annotations

import pytest

from mlx_mesh_wire import InvalidRequestError, limits, messages, pack_body
from mlx_mesh_wire.messages import Flag
from mlx_mesh_worker import sent as results
from mlx_mesh_worker import session as module
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Admit, Cancel, Done, Piece, Returned, Withdraw
from mlx_mesh_worker.sent import SENT_EXTRA, SENT_S, SentResults
from mlx_mesh_worker.session import Session
from mlx_mesh_worker.session_actions import Leave, Reconnect
from tests.worker.test_session import BODY, INFO, KEY, Bench, sent, vitals


def message(job_id: int = 1, *, flags: int = 0, window: int = 0, seen: int = 0, ms: int = 2500) -> messages.Job:
    return messages.Job(job_id, 2, KEY, 9, "embed", "m", 2, ms, flags, window, b"warm", "trace", seen)


def test_a_job_is_what_its_message_says() -> None:
    job = Job(message(window=3), BODY, 10.0)
    assert (1, 2, (KEY, 9)) == (job.id, job.attempt, job.key)
    assert ("embed", "m", 2, b"warm", "trace") == (job.op, job.model, job.lane, job.affinity, job.traceparent)
    assert (12.5, 3, 0, 10.0) == (job.deadline, job.credit, job.seq, job.accepted)
    assert (True, False, False, None) == (job.stream, job.alone, job.resumable, job.state)
    assert BODY == job.frames
    assert not Job(message(), BODY, 10.0).stream


def test_a_stream_with_buffers_that_begins_keeps_them_all() -> None:
    job = Job(message(window=1), [*BODY, b"buffer"], 0.0, resumes=True)
    assert ([*BODY, b"buffer"], None) == (job.frames, job.state)


def test_a_session_goes_on_with_streams_only_if_it_is_told_that_its_engine_can() -> None:
    job = message(window=1, seen=3, flags=Flag.RESUMED)
    assert Job(job, [*BODY, b"state"], 0.0).state is None
    session = Session(INFO, 0.0)
    session.message(0.0, job, [*BODY, b"state"])
    (admit,) = session.take()
    assert (0, None) == (admit.job.seq, admit.job.state)


def test_a_body_is_strict_about_text_and_a_bad_one_is_the_callers_fault() -> None:
    job = Job(message(), [b"\xa1\xff"], 0.0)
    assert "\udcff" == job.value(lenient_text=True)
    with pytest.raises(InvalidRequestError) as caught:
        job.value()
    assert {"field": "body"} == caught.value.details


def done(number: int, size: int = 4) -> Done:
    made = messages.Job(number, 1, KEY, number, "embed", "", 1, 1000, 0, 0, b"", "")
    return Done(Job(made, BODY, 0.0), [b"x" * size], None, 0.0)


def kept(sent: SentResults) -> list[int]:
    return [key[1] for key, _ in sent]


def test_results_are_kept_for_half_a_minute_the_oldest_go_first() -> None:
    made = SentResults()
    made.keep(0.0, done(1), 4)
    made.keep(1.0, done(2), 4)
    made.drop(SENT_S - 0.5)
    assert [1, 2] == kept(made)
    made.drop(SENT_S)
    assert [2] == kept(made)
    assert 30.0 == SENT_S


def test_as_many_results_are_kept_as_a_broker_can_have_given_jobs() -> None:
    made = SentResults()
    for number in range(1, 4 + SENT_EXTRA + 2):
        made.keep(0.0, done(number), 4)
    assert list(range(2, 4 + 64 + 8 + 2)) == kept(made)


def test_results_are_kept_up_to_their_limit_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SENT_MAX_BYTES", 12)
    made = SentResults()
    for number in (1, 2, 3):
        made.keep(0.0, done(number), 4)
    assert [1, 2, 3] == kept(made)
    assert 2 == made.take((KEY, 2)).job.id
    made.keep(0.0, done(4), 4)
    assert [1, 3, 4] == kept(made), "what was taken out takes up nothing"
    made.drop(SENT_S)
    for number in (5, 6, 7):
        made.keep(50.0, done(number), 4)
    assert [5, 6, 7] == kept(made), "nor does what was dropped"
    made.keep(50.0, done(8), 4)
    assert [6, 7, 8] == kept(made)


def test_64_mib_of_results_are_kept_and_of_requests_nothing() -> None:
    made = SentResults()
    half = done(1, 32 << 20)
    made.keep(0.0, half, 4)
    made.keep(0.0, done(2, 32 << 20), 4)
    assert [1, 2] == kept(made)
    assert () == half.job.frames
    made.keep(0.0, done(3, 1), 4)
    assert [2, 3] == kept(made)


def test_a_worker_that_still_loads_is_not_draining_and_says_that_it_loads_until_it_is_ready() -> None:
    session = Session(INFO, 0.0)
    assert not session.draining
    session.connected(0.0)
    session.connected(1.0)
    assert [messages.Loading(*INFO)] * 2 == sent(session.take())
    warm = INFO._replace(models=["now warm"])
    session.loaded(warm, 2.0)
    session.connected(3.0)
    assert [warm] * 2 == sent(session.take())


def test_beats_and_pings_come_at_their_moments() -> None:
    bench = Bench()
    session = bench.session
    session.tick(10.0, vitals)
    assert [messages.Beat] == [type(m) for m in sent(session.take())]
    assert 11.0 == session.next_tick()
    session.tick(10.75, vitals)
    assert [] == session.take()
    session.tick(11.0, vitals)
    assert [messages.Beat, messages.Ping] == [type(m) for m in sent(session.take())]
    session.tick(11.125, vitals)
    assert [] == session.take()
    assert pytest.approx(11.2) == session.next_tick()
    session.tick(session.next_tick(), vitals)
    assert [messages.Ping(1)] == sent(session.take())


def test_a_ping_is_due_as_long_after_the_last_word_as_the_broker_wishes() -> None:
    bench = Bench()
    bench.say(messages.Welcome(1, 0, "e", {}, {"beat_ms": 64_000, "ping_ms": 2000, "silent_ms": 8000}))
    bench.session.tick(10.0, vitals)
    bench.session.take()
    assert 12.0 == bench.session.next_tick()
    bench.session.tick(11.875, vitals)
    assert [] == bench.session.take()
    bench.session.tick(12.0, vitals)
    assert [messages.Ping(1)] == sent(bench.session.take())
    bench.session.tick(17.875, vitals)
    assert [messages.Ping(1)] == sent(bench.session.take())
    bench.session.tick(18.0, vitals)
    assert [Reconnect()] == bench.session.take()
    bench.session.tick(25.875, vitals)
    assert Reconnect() not in bench.session.take(), "the new connection has its own time"


def test_a_new_connection_gives_the_broker_its_time_again() -> None:
    bench = Bench()
    bench.session.connected(14.0)
    bench.session.take()
    bench.session.tick(18.75, vitals)
    assert Reconnect() not in bench.session.take()
    bench.session.tick(19.0, vitals)
    assert [Reconnect()] == bench.session.take()


def test_intervals_of_nothing_and_those_of_other_names_are_ignored() -> None:
    bench = Bench()
    bench.say(messages.Welcome(1, 0, "e", {}, {"beat_ms": 0, "ping_ms": 0, "silent_ms": 0, "other_ms": 1}))
    bench.session.tick(10.5, vitals)
    assert [messages.Beat] == [type(m) for m in sent(bench.session.take())]
    assert 11.0 == bench.session.next_tick()
    bench.say(messages.Welcome(1, 0, "e", {}, {"beat_ms": 1}))
    bench.session.tick(11.5, vitals)
    bench.session.take()
    bench.session.tick(11.5625, vitals)
    assert [messages.Beat] == [type(m) for m in sent(bench.session.take())], "a millisecond is an interval"


def test_a_job_that_was_returned_is_held_no_more() -> None:
    bench = Bench()
    job = bench.admitted(1)
    assert [messages.Return(1, "draining")] == sent(bench.outcome(Returned(job)))
    assert [] == bench.say(messages.Cancel(1))
    assert [] == bench.outcome(Returned(job))
    bench.admitted(2)  # the same request anew


def test_of_what_is_drained_only_what_has_not_begun_is_withdrawn() -> None:
    bench = Bench()
    begun, waits = bench.admitted(1, 1), bench.admitted(2, 2)
    begun.started = 10.5
    bench.session.drain(bench.now)
    assert [Withdraw(waits)] == [action for action in bench.session.take() if isinstance(action, Withdraw)]


def test_leaving_at_once_ends_all_that_is_held() -> None:
    bench = Bench()
    begun, waits = bench.admitted(1, 1), bench.admitted(2, 2)
    begun.started = 10.5
    bench.session.abandon("hurry")
    actions = bench.session.take()
    assert [Cancel(begun), Cancel(waits)] == [action for action in actions if isinstance(action, Cancel)]
    assert [messages.Return(2, "hurry"), messages.Bye("hurry")] == sent(actions)
    assert Leave() == actions[-1]
    assert [] == bench.outcome(Returned(waits))
    assert [] == bench.done(begun)


def test_at_most_once_runs_unless_it_may_have_run_before() -> None:
    bench = Bench()
    bench.admitted(1, 1, flags=Flag.AT_MOST_ONCE)
    bench.admitted(2, 2, flags=Flag.RESEND)
    bench.admitted(3, 3)
    (refused,) = sent(bench.job(4, 4, flags=Flag.AT_MOST_ONCE | Flag.RESEND))
    assert "WORKER_LOST" == refused.code
    assert [] == bench.say(messages.Cancel(4))


def test_an_adopted_job_is_known_by_its_new_number_and_has_the_time_that_is_left_now() -> None:
    bench = Bench()
    job = bench.admitted(1)
    bench.now = 12.0
    bench.job(7, attempt=3)
    assert (7, 3, 17.0) == (job.id, job.attempt, job.deadline)
    assert [] == bench.say(messages.Cancel(1))
    assert [Cancel(job)] == bench.say(messages.Cancel(7))


def test_jobs_of_the_last_epoch_all_keep_their_answers_until_they_are_asked_for() -> None:
    bench = Bench()
    jobs = [bench.admitted(number, number) for number in (1, 2, 3)]
    bench.say(messages.Welcome(1, 0, "another", {}, {}))
    assert 3 == len(bench.session.jobs)
    assert all(job.id < 0 for job in jobs)
    for job in jobs:
        assert [] == bench.done(job)
    for number in (1, 2, 3):
        assert [10 + number] == [m.id for m in sent(bench.job(10 + number, number))]


def test_a_job_that_waits_to_be_asked_for_is_not_returned_under_a_number_of_the_last_epoch() -> None:
    bench = Bench()
    job = bench.admitted(1)
    bench.say(messages.Welcome(1, 0, "another", {}, {}))
    assert [] == sent(bench.outcome(Returned(job)))


def test_the_credit_of_a_reader_is_bounded_by_two_windows() -> None:
    bench = Bench()
    job = bench.admitted(window=limits.WINDOW_MAX_CHUNKS)
    for _ in range(3):
        bench.say(messages.Credit(1, limits.WINDOW_MAX_CHUNKS))
    assert 2 * limits.WINDOW_MAX_CHUNKS == job.credit


def test_as_many_chunks_wait_as_may_and_one_more_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_MAX", 3)
    bench = Bench()
    job = bench.admitted(window=1)
    assert 1 == len([a for _ in range(4) for a in bench.outcome(Piece(job, BODY))])
    actions = bench.outcome(Piece(job, BODY))
    assert [Cancel(job)] == actions[:1]
    assert ["SLOW_CONSUMER"] == [m.code for m in sent(actions)]
    assert [] == bench.outcome(Piece(job, BODY))
    assert [] == bench.done(job)


def test_a_result_tells_how_long_its_job_waited_and_ran_in_microseconds() -> None:
    bench = Bench()
    job = bench.admitted()
    job.started, bench.now = 74.0, 138.0
    assert [(64_000_000, 64_000_000)] == [(m.queue_us, m.service_us) for m in sent(bench.done(job))]
    job = bench.admitted(2, 2)
    bench.now += 2.0
    assert [(2_000_000, 0)] == [(m.queue_us, m.service_us) for m in sent(bench.done(job))], "it never began"


def test_a_result_that_is_sent_again_took_no_time() -> None:
    bench = Bench()
    job = bench.admitted(1)
    job.started, bench.now = 10.5, 12.0
    bench.done(job)
    bench.now = 20.0
    (final,) = sent(bench.job(2, attempt=2))
    assert messages.Final(2, 2, 0, 0, 0) == final
    assert pack_body("x") == BODY


def test_a_stream_that_has_to_begin_anew_leaves_nothing_of_its_first_life() -> None:
    bench = Bench()
    first = bench.admitted(1, window=1)
    cancel, admit = bench.job(2, window=1)
    assert Cancel(first) == cancel
    assert isinstance(admit, Admit)
    assert [] == bench.say(messages.Cancel(1))
    assert [2] == list(bench.session.jobs)
