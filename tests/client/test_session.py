"""The client's protocol state, without socket, clock or thread."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh import _received
from mlx_mesh import _session as module
from mlx_mesh._generation import chat_call, generate_call
from mlx_mesh._options import options
from mlx_mesh._pending import Pending
from mlx_mesh._session import STATUS_OP, Session
from mlx_mesh_wire import CancelledError, MeshError, messages, pack_body
from mlx_mesh_wire.messages import Flag

KEY = b"0123456789abcdef"
BODY = pack_body("x")


class Bench:
    def __init__(self, *, welcome: bool = True, **limits: int) -> None:
        self.now = 100.0
        self.session = Session(KEY, "test", "ipc://nowhere", lambda: 0.5)
        self.session.connected(self.now)
        self.outcomes: dict[int, Any] = {}
        self.pieces: list[Any] = []
        self.calls = 0
        if welcome:
            self.welcome(**limits)
        self.said()

    def welcome(self, epoch: str = "e1", **limits: int) -> None:
        self.hear(messages.Welcome(1, 0, epoch, limits, {"ping_ms": 1000, "silent_ms": 5000}))

    def hear(self, message: Any, frames: Any = ()) -> None:
        self.session.message(self.now, message, frames)

    def said(self) -> list[Any]:
        return [message for message, _ in self.mail()]

    def mail(self) -> list[Any]:
        """Return what is to be sent, with the frames."""
        mail = [(message, list(frames)) for message, frames in self.session.outbox]
        self.session.outbox.clear()
        return mail

    def chunk(self, seq: int, *tokens: int) -> None:
        self.hear(messages.Chunk(1, seq), pack_body({"text": "", "tokens": list(tokens)}))

    def call(
        self,
        *,
        timeout: float = 60.0,
        lane: str = "standard",
        window: int = 0,
        op: str = "echo",
        at_most_once: bool = False,
        resumable: bool = False,
    ) -> Pending:
        self.calls += 1
        number = self.calls
        chosen = options(model=None, timeout=timeout, lane=lane, at_most_once=at_most_once, wait_for_ready=False)

        def done(outcome: Any, frames: Any) -> None:
            assert number not in self.outcomes
            self.outcomes[number] = outcome

        call = chosen.call(op, BODY, window)
        if resumable:
            call = call._replace(flags=call.flags | Flag.RESUMABLE)
        pending = Pending(call, self.now + timeout, done, self.pieces.append if window else None)
        self.session.start(self.now, pending)
        return pending

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.session.next_tick()) <= end:
            self.now = max(self.now, due)
            self.session.tick(self.now)
            if self.session.reconnect:
                self.session.connected(self.now)
        self.now = end

    def code(self, number: int) -> str:
        outcome = self.outcomes[number]
        return outcome.code if isinstance(outcome, MeshError) else "OK"


def error(request_id: int, code: str, *, retryable: bool = False, after_ms: int = 0) -> messages.Error:
    return messages.Error(request_id, code, "why", retryable, after_ms)


def test_a_connection_begins_with_hello() -> None:
    session = Session(KEY, "test", "ipc://nowhere", lambda: 0.5)
    session.connected(0.0)
    assert messages.Hello(1, 0, KEY, "test", "") == session.outbox[0][0]


def test_a_call_is_sent_with_the_time_that_is_left_and_its_answer_ends_it() -> None:
    bench = Bench()
    bench.call(timeout=2.5, lane="interactive")
    (request,) = bench.said()
    assert (request.request_id, request.op, request.lane, request.remaining_ms, request.flags) == (
        1,
        "echo",
        0,
        2500,
        0,
    )
    bench.hear(messages.Final(1, 1, 0, 0, 0), BODY)
    assert bench.code(1) == "OK"
    bench.hear(messages.Final(1, 1, 0, 0, 0), BODY)
    assert len(bench.session) == 0


def test_after_a_reset_everything_outstanding_is_sent_again_under_its_id() -> None:
    bench = Bench()
    bench.call()
    bench.call(op=STATUS_OP)
    bench.said()
    bench.now += 1
    bench.hear(messages.Reset("e2"))
    bench.hear(messages.Reset("e2"))
    hello, request, status = bench.said()
    assert hello.last_epoch == "e1"
    assert (request.request_id, request.flags, request.remaining_ms) == (1, Flag.RESEND, 59_000)
    assert messages.Status(2) == status


def test_silence_is_pinged_and_then_the_connection_is_made_anew_and_all_sent_again() -> None:
    bench = Bench()
    bench.call()
    bench.said()
    bench.advance(1.5)
    assert [messages.Ping(1)] == bench.said()
    bench.advance(4)
    said = bench.said()
    assert any(isinstance(m, messages.Hello) for m in said)
    assert [m.request_id for m in said if isinstance(m, messages.Request)] == [1]


def test_an_idle_client_says_something_now_and_then() -> None:
    bench = Bench()
    bench.advance(65)
    assert [messages.Ping(0)] * 2 == bench.said()


def test_pings_of_the_broker_are_answered_and_what_is_not_for_clients_is_ignored() -> None:
    bench = Bench()
    bench.hear(messages.Ping(8))
    bench.hear(messages.Quiet(True))
    bench.hear(error(55, "INTERNAL"))
    assert [messages.Pong(8)] == bench.said()


def test_a_call_without_an_answer_ends_at_its_deadline_and_is_cancelled() -> None:
    bench = Bench()
    bench.call(timeout=3)
    bench.advance(2.9)
    assert bench.outcomes == {}
    bench.advance(0.2)
    assert bench.code(1) == "DEADLINE_EXCEEDED"
    assert messages.Cancel(1) in bench.said()


def test_without_a_broker_the_error_says_what_to_do() -> None:
    bench = Bench(welcome=False)
    bench.call(timeout=1)
    bench.advance(1.1)
    for part in ("ipc://nowhere", "mlx-mesh up", "MLX_MESH_ENDPOINT"):
        assert part in bench.outcomes[1].message


def test_a_cancelled_call_is_never_heard_of_again() -> None:
    bench = Bench()
    pending = bench.call()
    bench.session.cancel(pending)
    bench.session.cancel(pending)
    assert [messages.Request, messages.Cancel] == [type(m) for m in bench.said()]
    bench.hear(messages.Final(1, 1, 0, 0, 0), BODY)
    bench.advance(70)
    assert bench.outcomes == {}


def test_retryable_errors_are_tried_again_after_a_pause_under_a_new_id() -> None:
    bench = Bench()
    bench.call()
    bench.said()
    bench.hear(error(1, "OVERLOADED", retryable=True, after_ms=400))
    bench.advance(0.3)
    assert bench.said() == []
    bench.advance(0.2)
    (again,) = bench.said()
    assert (again.request_id, again.flags) == (2, 0)
    bench.hear(messages.Final(2, 1, 0, 0, 0), BODY)
    assert bench.code(1) == "OK"


def test_there_is_no_retry_beyond_the_deadline_or_the_budget_or_of_what_is_final() -> None:
    bench = Bench()
    bench.call(timeout=1)
    bench.hear(error(1, "OVERLOADED", retryable=True, after_ms=5000))
    assert bench.code(1) == "OVERLOADED"
    bench.call()
    bench.hear(error(2, "INVALID_REQUEST"), pack_body({"index": 3}))
    assert bench.outcomes[2].details == {"index": 3}
    for _ in range(30):
        bench.call()
    for request_id in range(3, 33):
        bench.hear(error(request_id, "OVERLOADED", retryable=True))
    refused = sum(bench.code(n) == "OVERLOADED" for n in bench.outcomes if n > 2)
    assert 30 - refused in (9, 10, 11, 12)


def test_details_that_are_no_map_are_ignored() -> None:
    bench = Bench()
    for request_id, frames in enumerate(([b"\xc1"], pack_body([1])), 1):
        bench.call()
        bench.hear(error(request_id, "INTERNAL"), frames)
        assert bench.outcomes[request_id].details == {}


def test_chunks_come_once_and_in_order_and_credit_is_granted_by_half_windows() -> None:
    bench = Bench()
    pending = bench.call(window=4)
    bench.said()
    for seq in (0, 1, 1, 0, 2):
        bench.hear(messages.Chunk(1, seq), [b"%d" % seq])
    bench.hear(messages.Chunk(99, 0), [b"?"])
    assert bench.pieces == [[b"0"], [b"1"], [b"2"]]
    assert [messages.Credit(1, 1)] * 2 == bench.said()
    bench.session.read(bench.now, pending)
    assert bench.said() == []
    bench.session.read(bench.now, pending)
    assert [messages.Credit(1, 2)] == bench.said()
    bench.hear(error(1, "WORKER_LOST", retryable=True))
    assert bench.code(1) == "WORKER_LOST"
    bench.session.read(bench.now, pending)
    bench.session.read(bench.now, pending)
    assert bench.said() == []


def test_a_slow_reader_grants_credit_once_a_second_although_it_has_read_little() -> None:
    bench = Bench()
    pending = bench.call(window=16)
    bench.said()
    for seq in range(3):
        bench.hear(messages.Chunk(1, seq), [b"x"])
        bench.now += 1.1
        bench.session.read(bench.now, pending)
    assert [messages.Credit(1, 2), messages.Credit(1, 1)] == bench.said()


def test_a_chunk_that_is_missing_is_asked_for_once_and_the_stream_goes_on_from_there() -> None:
    bench = Bench()
    pending = bench.call(window=4)
    bench.said()
    bench.hear(messages.Chunk(1, 0), [b"0"])
    bench.session.read(bench.now, pending)
    for seq in (2, 3):
        bench.hear(messages.Chunk(1, seq), [b"%d" % seq])
    (again,) = [each for each in bench.said() if isinstance(each, messages.Request)]
    assert (1, 1, 4, Flag.RESEND) == (again.request_id, again.seen, again.window, again.flags)
    for seq in (1, 2):
        bench.hear(messages.Chunk(1, seq), [b"%d" % seq])
    bench.hear(messages.Final(1, 1, 0, 0, 0, 3), BODY)
    assert [[b"0"], [b"1"], [b"2"]] == bench.pieces
    assert bench.code(1) == "OK"


RESEND = Flag.RESUMABLE | Flag.RESEND | Flag.RESUMED


def resumable() -> tuple[Bench, Pending]:
    """Return a stream of which two chunks with three tokens came."""
    bench = Bench()
    pending = bench.call(window=8, resumable=True)
    ((request, frames),) = bench.mail()
    assert (Flag.RESUMABLE, 0, BODY) == (request.flags, request.seen, frames)
    bench.chunk(0, 7, 2**32 - 1)
    bench.chunk(1, 256)
    assert [] == bench.said()
    return bench, pending


STATE = b"\x07\0\0\0\xff\xff\xff\xff\0\x01\0\0"


def test_a_stream_that_was_cut_off_is_sent_again_with_the_tokens_that_came() -> None:
    bench, pending = resumable()
    bench.session.read(bench.now, pending)
    bench.hear(messages.Again(1, 2))
    ((again, frames),) = bench.mail()
    assert (1, RESEND, 2, 7) == (again.request_id, again.flags, again.seen, again.window)
    assert [*BODY, STATE] == frames
    bench.chunk(2, 5)
    bench.hear(messages.Again(1, 3))
    ((again, frames),) = bench.mail()
    assert (3, STATE + b"\x05\0\0\0") == (again.seen, frames[-1])
    bench.hear(messages.Final(1, 3, 0, 0, 0, 3), BODY)
    assert ("OK", 2) == (bench.code(1), pending.moved)


def test_chunks_without_tokens_have_an_empty_state() -> None:
    bench = Bench()
    bench.call(window=8, resumable=True)
    bench.said()
    bench.chunk(0)
    bench.hear(messages.Again(1, 1))
    ((again, frames),) = bench.mail()
    assert (RESEND, 1, [*BODY, b""]) == (again.flags, again.seen, frames)


def test_a_stream_of_which_nothing_came_is_sent_again_as_it_was() -> None:
    bench = Bench()
    pending = bench.call(window=8, resumable=True)
    bench.said()
    bench.hear(messages.Again(1, 0))
    ((again, frames),) = bench.mail()
    assert (Flag.RESUMABLE | Flag.RESEND, 0, BODY, 0) == (again.flags, again.seen, frames, pending.moved)


def test_a_new_broker_is_told_the_state_and_that_counts_as_a_move() -> None:
    bench, pending = resumable()
    bench.hear(messages.Reset("e2"))
    hello, (again, frames) = bench.mail()
    assert isinstance(hello[0], messages.Hello)
    assert (RESEND, 2, [*BODY, STATE]) == (again.flags, again.seen, frames)
    assert 0 == pending.moved
    bench.welcome("e2")
    assert 1 == pending.moved


def test_the_same_broker_on_a_new_connection_is_no_move() -> None:
    bench, pending = resumable()
    bench.advance(6)
    assert 2 == next(message for message in bench.said() if isinstance(message, messages.Request)).seen
    bench.welcome()
    assert 0 == pending.moved


def test_what_was_sent_again_with_chunks_and_dropped_unread_has_been_sent_all_the_same() -> None:
    bench, _ = resumable()
    bench.hear(messages.Again(1, 2))
    bench.said()
    bench.hear(messages.Reset("e2", 1))
    assert RESEND == bench.said()[1].flags


def test_a_client_with_fewer_chunks_than_were_sent_makes_a_new_connection() -> None:
    bench, _ = resumable()
    bench.hear(messages.Again(1, 4))
    assert [] == bench.said()
    assert bench.session.next_tick() <= bench.now
    bench.advance(0)
    hello, again = bench.said()
    assert isinstance(hello, messages.Hello)
    assert 2 == again.seen


def test_a_gap_that_stays_ends_the_connection() -> None:
    bench, _ = resumable()
    bench.chunk(4, 1)
    assert [2] == [each.seen for each in bench.said()]
    bench.now += 4.9
    bench.chunk(5, 1)
    assert not bench.session.reconnect
    bench.now += 0.2
    bench.chunk(6, 1)
    assert bench.session.reconnect
    assert [] == bench.said()


@pytest.mark.parametrize("body", [b"\xc1", *(pack_body(v)[0] for v in ("x", {}, {"tokens": "x"}, {"tokens": [-1]}, 5))])
def test_a_stream_of_another_kind_has_no_state(body: bytes) -> None:
    bench, _ = resumable()
    bench.hear(messages.Chunk(1, 2), [body])
    bench.hear(messages.Again(1, 3))
    ((again, frames),) = bench.mail()
    assert (Flag.RESUMABLE | Flag.RESEND, 3, BODY) == (again.flags, again.seen, frames)


def test_an_answer_that_is_too_long_for_a_message_has_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_received, "STATE_MAX_BYTES", len(STATE) - 1)
    bench, _ = resumable()
    bench.hear(messages.Again(1, 2))
    assert [BODY] == [frames for _, frames in bench.mail()]


def test_a_state_is_little_endian_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    received = _received.Received()
    received.add(pack_body({"tokens": [1, 2**31]}))
    little = received.state()
    monkeypatch.setattr(_received.sys, "byteorder", "big")
    big = received.state()
    assert little is not None
    assert big is not None
    assert [1, 2**31] == [int.from_bytes(little[at : at + 4], "little") for at in (0, 4)]
    assert big == b"".join(little[at : at + 4][::-1] for at in (0, 4))


def test_a_question_about_no_stream_is_not_answered() -> None:
    bench = Bench()
    bench.call()
    bench.said()
    bench.hear(messages.Again(1, 2))
    assert [] == bench.said()


def test_a_question_about_what_is_over_is_answered_by_a_cancel_since_the_first_one_was_lost() -> None:
    bench = Bench()
    bench.hear(messages.Again(55, 2))
    assert [messages.Cancel(55)] == bench.said()


def test_texts_can_go_on_unless_they_must_not_or_leave_no_room() -> None:
    keywords = {"model": None, "timeout": 1.0, "lane": "bulk", "wait_for_ready": False}
    assert generate_call("x", {}, 4, **keywords, at_most_once=False).flags & Flag.RESUMABLE
    assert chat_call([], None, {}, 4, **keywords, at_most_once=False).flags & Flag.RESUMABLE
    assert not generate_call("x", {}, 4, **keywords, at_most_once=True).flags & Flag.RESUMABLE
    long = "x" * (61 * 1024 * 1024)
    assert not generate_call(long, {}, 4, **keywords, at_most_once=False).flags & Flag.RESUMABLE


def test_an_end_that_came_before_the_last_chunks_is_no_end() -> None:
    bench = Bench()
    bench.call(window=4)
    bench.said()
    bench.hear(messages.Final(1, 1, 0, 0, 0, 1), BODY)
    assert bench.outcomes == {}
    assert [0] == [each.seen for each in bench.said()]
    bench.hear(messages.Chunk(1, 0), [b"0"])
    bench.hear(messages.Final(1, 1, 0, 0, 0, 1), BODY)
    assert bench.code(1) == "OK"


def test_a_process_that_was_stopped_does_not_take_its_own_pause_for_the_brokers() -> None:
    bench = Bench()
    bench.call()
    bench.now += 20.0
    bench.session.tick(bench.now)
    assert not bench.session.reconnect
    for _ in range(6):
        bench.now += 0.99
        bench.session.tick(bench.now)
    assert bench.session.reconnect


def test_at_most_once_waits_for_the_welcome_so_that_nobody_wonders_whether_it_was_taken() -> None:
    bench = Bench(welcome=False)
    bench.call(at_most_once=True)
    assert [] == bench.said()
    bench.welcome()
    (request,) = bench.said()
    assert Flag.AT_MOST_ONCE == request.flags


def test_at_most_once_that_a_new_broker_dropped_unread_has_not_been_sent() -> None:
    bench = Bench()
    bench.call(at_most_once=True)
    bench.call(at_most_once=True)
    bench.said()
    bench.hear(messages.Reset("e2", 2))
    assert [messages.Hello] == [type(each) for each in bench.said()]
    bench.welcome("e2")
    lost, dropped = bench.said()
    assert (Flag.AT_MOST_ONCE | Flag.RESEND, Flag.AT_MOST_ONCE) == (lost.flags, dropped.flags)


def test_calls_beyond_the_places_wait_by_lane_and_go_out_as_places_become_free() -> None:
    bench = Bench(outstanding_max=2)
    bench.call()
    bench.call()
    bench.call(lane="bulk")
    bench.call(lane="interactive")
    dropped = bench.call(lane="interactive")
    assert len(bench.said()) == 2
    bench.session.cancel(dropped)
    bench.hear(messages.Final(1, 1, 0, 0, 0), BODY)
    (first,) = bench.said()
    assert first.lane == 0
    bench.hear(error(2, "INTERNAL"))
    (second,) = bench.said()
    assert second.lane == 2


def test_one_call_too_many_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    bench = Bench(outstanding_max=1)
    for _ in range(4):
        bench.call()
    assert {4} == bench.outcomes.keys()
    assert bench.code(4) == "OVERLOADED"


def test_a_waiting_call_expires_where_it_waits() -> None:
    bench = Bench(outstanding_max=1)
    bench.call()
    bench.call(timeout=1)
    bench.said()
    bench.advance(1.1)
    assert bench.code(2) == "DEADLINE_EXCEEDED"
    assert not any(isinstance(m, messages.Cancel) for m in bench.said())


def test_a_broker_of_another_version_ends_every_call() -> None:
    bench = Bench(welcome=False)
    bench.call()
    bench.hear(error(0, "PROTOCOL_ERROR"))
    assert bench.code(1) == "PROTOCOL_ERROR"
    bench = Bench()
    bench.call()
    bench.hear(error(0, "PROTOCOL_ERROR"))
    assert bench.outcomes == {}


def test_closing_ends_every_call_and_says_goodbye() -> None:
    bench = Bench(outstanding_max=1)
    bench.call()
    bench.call()
    bench.session.close(CancelledError("closed"))
    assert [bench.code(1), bench.code(2)] == ["CANCELLED"] * 2
    assert isinstance(bench.said()[-1], messages.Bye)
    bench = Bench()
    bench.call()
    bench.hear(error(1, "OVERLOADED", retryable=True))
    bench.session.close(CancelledError("closed"))
    assert bench.code(1) == "CANCELLED"


def test_timers_of_ended_calls_do_not_pile_up() -> None:
    bench = Bench()
    for number in range(1, 5001):
        pending = bench.call()
        if number % 3:
            bench.hear(messages.Final(bench.said()[-1].request_id, 1, 0, 0, 0), BODY)
        else:
            bench.session.cancel(pending)
    assert len(list(bench.session._agenda)) < 1000


def test_intervals_of_nothing_do_not_keep_a_client_busy() -> None:
    bench = Bench()
    bench.hear(messages.Welcome(1, 0, "e1", {}, {"ping_ms": 0, "silent_ms": 0}))
    bench.call()
    bench.session.tick(bench.now)
    assert bench.session.next_tick() >= bench.now + 1
    assert not bench.session.reconnect
