"""The client's session at the edges of its times, and what of a call must not outlive it."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh import _session as module
from mlx_mesh._agenda import STALE_MAX
from mlx_mesh._session import KEEPALIVE_S, PAUSE_S, Session
from mlx_mesh_wire import messages, pack_body
from mlx_mesh_wire.messages import Flag
from tests.client.test_session import BODY, KEY, Bench, error
from tests.client.test_session_parts import agenda, end, pending


def requests(bench: Bench) -> list[messages.Request]:
    return [message for message in bench.said() if isinstance(message, messages.Request)]


def tick(bench: Bench, seconds: float) -> list[Any]:
    """Let time pass without a look at the clock in between, and return what is said then."""
    bench.now += seconds
    bench.session.tick(bench.now)
    return bench.said()


def test_a_session_without_a_connection_is_not_welcomed_and_needs_no_other_one() -> None:
    session = Session(KEY, "test", "ipc://nowhere", lambda: 0.5)
    assert (False, False, "", 0) == (session.welcomed, session.reconnect, session.epoch, len(session))


def test_before_a_welcome_a_client_pings_every_second_and_gives_the_connection_five() -> None:
    bench = Bench(welcome=False)
    bench.call(timeout=600.0)
    said = [tick(bench, 0.5)[-1:] for _ in range(9)]
    assert [0, 1, 0, 1, 0, 1, 0, 1, 0] == [sum(type(message) is messages.Ping for message in each) for each in said]
    assert not bench.session.reconnect
    tick(bench, 0.5)
    assert bench.session.reconnect


def test_ended_calls_that_were_passed_over_do_not_count_as_in_the_way() -> None:
    made, calls = agenda(*[1.0] * STALE_MAX)
    end(made, *calls)
    assert made.next() is None
    later = [pending() for _ in range(STALE_MAX)]
    for call in later:
        made.add(3.0, call, retry=False)
    end(made, *later)
    assert later == list(made)


def test_credit_is_granted_when_half_of_a_window_was_read_and_not_before() -> None:
    call = pending(window=8)
    assert [0, 0, 0, 4, 0, 0, 0, 4] == [call.take(5.0) for _ in range(8)]


def test_a_stream_of_which_the_very_first_chunk_is_missing_is_asked_for_again_and_not_given_up() -> None:
    bench = Bench()
    bench.call(window=4)
    bench.said()
    bench.chunk(1)
    (again,) = requests(bench)
    assert (1, 0, Flag.RESEND) == (again.request_id, again.seen, again.flags & Flag.RESEND)
    assert not bench.session.reconnect
    bench.now += 4.9
    bench.chunk(2)
    assert ([], False) == (bench.said(), bench.session.reconnect)
    bench.now += 0.1
    bench.chunk(3)
    assert bench.session.reconnect


def test_a_stream_that_cannot_go_on_elsewhere_is_sent_again_without_a_state() -> None:
    bench = Bench()
    bench.call(window=4)
    bench.said()
    bench.chunk(0, 7)
    bench.session.connected(bench.now)
    ((again, frames),) = [mail for mail in bench.mail() if isinstance(mail[0], messages.Request)]
    assert (1, 0, list(BODY)) == (again.seen, again.flags & Flag.RESUMED, frames)


def test_the_first_retry_comes_after_the_first_pause() -> None:
    bench = Bench()
    bench.call()
    bench.said()
    bench.hear(error(1, "OVERLOADED", retryable=True))
    assert pytest.approx(bench.now + 0.05) == bench.session.next_tick()  # half of it, and half of the rest by chance
    bench.advance(0.06)
    bench.said()
    bench.hear(error(2, "OVERLOADED", retryable=True))
    assert pytest.approx(bench.now + 0.1) == bench.session.next_tick()


def test_a_client_knows_how_many_of_its_calls_wait_and_are_under_way() -> None:
    bench = Bench(outstanding_max=1)
    calls = [bench.call() for _ in range(3)]
    assert 3 == len(bench.session)
    bench.session.cancel(calls[2])
    bench.session.cancel(calls[2])
    assert 2 == len(bench.session)
    bench.session.cancel(calls[0])
    bench.said()
    assert 0.0 == bench.session.next_tick(), "there is a place for the one that waits"
    assert [2] == [message.request_id for message in tick(bench, 0.0) if isinstance(message, messages.Request)]
    assert 1 == len(bench.session)


def test_calls_that_are_cancelled_do_not_pile_up() -> None:
    bench = Bench()
    for _ in range(4 * STALE_MAX):
        bench.session.cancel(bench.call())
    assert len(list(bench.session._agenda)) <= STALE_MAX + 1


def test_a_call_that_expired_where_it_waits_frees_its_place_in_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    bench = Bench(outstanding_max=1)
    bench.call()
    bench.call(timeout=1.0)
    bench.advance(1.5)
    assert "DEADLINE_EXCEEDED" == bench.code(2)
    bench.call()
    assert 2 == len(bench.session)
    assert [2] == list(bench.outcomes)


def test_an_expired_call_is_not_cancelled_by_its_caller_afterwards() -> None:
    bench = Bench()
    call = bench.call(timeout=1.0)
    bench.advance(1.5)
    bench.said()
    bench.session.cancel(call)
    assert [] == bench.said()


def test_a_connection_that_says_nothing_is_given_five_seconds_from_when_it_was_made() -> None:
    bench = Bench()
    bench.call(timeout=600.0)
    for _ in range(4):
        tick(bench, 1.0)
    bench.session.connected(bench.now)
    said = []
    for _ in range(4):
        said += tick(bench, 1.0)
    assert not bench.session.reconnect
    assert [messages.Ping(1)] * 4 == [message for message in said if isinstance(message, messages.Ping)]
    tick(bench, 1.0)
    assert bench.session.reconnect


def test_the_first_call_after_long_idleness_does_not_find_the_broker_silent() -> None:
    bench = Bench()
    for _ in range(20):
        tick(bench, 1.0)
    bench.call()
    for _ in range(4):
        tick(bench, 1.0)
    assert not bench.session.reconnect
    tick(bench, 1.0)
    assert bench.session.reconnect


def test_what_is_heard_puts_pings_and_silence_off() -> None:
    bench = Bench()
    bench.call(timeout=600.0)
    bench.said()
    for _ in range(20):
        bench.now += 0.5
        bench.hear(messages.Pong(1))
        bench.session.tick(bench.now)
    assert ([], False) == (bench.said(), bench.session.reconnect)
    assert [messages.Ping(1)] == tick(bench, 1.0)


def test_a_pause_of_the_process_is_one_from_two_seconds_on() -> None:
    for asleep, reconnects in ((PAUSE_S + 1.0, True), (PAUSE_S + 1.1, False)):
        bench = Bench()
        bench.call(timeout=600.0)
        for _ in range(3):
            tick(bench, 1.0)
        tick(bench, asleep)
        assert reconnects == bench.session.reconnect


def test_an_idle_client_says_something_after_half_a_minute_and_each_one_after() -> None:
    bench = Bench()
    spoken = [second for second in range(1, 100) if tick(bench, 1.0)]
    assert [KEEPALIVE_S, 2 * KEEPALIVE_S, 3 * KEEPALIVE_S] == spoken


@pytest.mark.parametrize(
    ("intervals", "reconnects"), [({"silent_ms": 3000}, True), ({"silent_ms": 4000}, False), ({}, False)]
)
def test_silence_is_as_long_as_the_broker_says(intervals: dict[str, int], reconnects: bool) -> None:
    bench = Bench()
    bench.hear(messages.Welcome(1, 0, "e1", {}, intervals))
    bench.call(timeout=600.0)
    for _ in range(3):
        tick(bench, 1.0)
    assert reconnects == bench.session.reconnect


def test_a_welcome_with_more_places_lets_calls_go_that_wait() -> None:
    bench = Bench(outstanding_max=1)
    for _ in range(3):
        bench.call()
    bench.said()
    bench.welcome(outstanding_max=2)
    assert [2] == [message.request_id for message in requests(bench)]


def test_a_refused_call_makes_room_for_the_next() -> None:
    bench = Bench(outstanding_max=1)
    bench.call()
    bench.call()
    bench.said()
    bench.hear(error(1, "INVALID_REQUEST"))
    assert [2] == [message.request_id for message in requests(bench)]


def test_when_all_calls_end_none_is_left_behind_and_the_next_goes_out_at_once() -> None:
    bench = Bench(outstanding_max=1)
    for _ in range(3):
        bench.call()
    bench.hear(error(0, "UNAUTHORIZED"))
    assert (0, 3) == (len(bench.session), len(bench.outcomes))
    bench.said()
    bench.call()
    assert [2] == [message.request_id for message in requests(bench)]


def test_a_broker_of_another_version_leaves_no_call_under_way() -> None:
    bench = Bench(welcome=False)
    bench.call()
    bench.hear(error(0, "PROTOCOL_ERROR"))
    assert ("PROTOCOL_ERROR", 0) == (bench.code(1), len(bench.session))
    bench.hear(messages.Final(1, 1, 0, 0, 0), pack_body("late"))
    assert 1 == len(bench.outcomes)


def test_another_call_does_not_put_silence_off() -> None:
    bench = Bench()
    bench.call(timeout=600.0)
    for _ in range(3):
        tick(bench, 1.0)
    bench.call(timeout=600.0)
    tick(bench, 1.0)
    tick(bench, 1.0)
    assert bench.session.reconnect


def test_a_call_is_something_said() -> None:
    bench = Bench()
    for _ in range(20):
        tick(bench, 1.0)
    bench.call()
    (request,) = requests(bench)
    assert 0 == request.window
    bench.hear(messages.Final(1, 1, 0, 0, 0), BODY)
    assert [30.0] == [second for second in range(1, 40) if tick(bench, 1.0)]


def test_a_stream_may_have_one_gap_after_the_other() -> None:
    bench = Bench()
    bench.call(window=8)
    bench.said()
    for seqs in ((1, 0, 1), (3, 2, 3)):
        for seq in seqs:
            bench.chunk(seq)
        assert [seqs[1]] == [message.seen for message in requests(bench)]


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_stream_has_moved_once_chunks_had_come(chunks: int) -> None:
    for news in (messages.Again(1, chunks), messages.Welcome(1, 0, "e2", {}, {})):
        bench = Bench()
        call = bench.call(window=4, resumable=True)
        for seq in range(chunks):
            bench.chunk(seq)
        bench.hear(news)
        assert min(chunks, 1) == call.moved


@pytest.mark.parametrize(("intervals", "first"), [({}, 1.0), ({"ping_ms": 3000}, 3.0), ({"ping_ms": 0}, 1.0)])
def test_pings_are_as_often_as_the_broker_says(intervals: dict[str, int], first: float) -> None:
    bench = Bench()
    bench.hear(messages.Welcome(1, 0, "e1", {}, {**intervals, "silent_ms": 60_000}))
    bench.call(timeout=600.0)
    bench.said()
    assert first == next(quarter / 4 for quarter in range(1, 20) if tick(bench, 0.25))


def test_without_a_word_of_the_broker_silence_is_five_seconds() -> None:
    bench = Bench()
    bench.hear(messages.Welcome(1, 0, "e1", {}, {}))
    bench.call(timeout=600.0)
    assert 5.0 == next(quarter / 4 for quarter in range(1, 40) if tick(bench, 0.25) is None or bench.session.reconnect)


def test_a_second_welcome_has_nothing_sent_again() -> None:
    bench = Bench()
    bench.call()
    bench.call(at_most_once=True)
    bench.said()
    bench.welcome()
    assert [] == bench.said()


@pytest.mark.parametrize(("seconds", "lost"), [(0.9, False), (1.0, True)])
def test_a_reset_that_comes_a_second_after_the_greeting_is_not_the_answer_to_what_went_with_it(
    seconds: float, lost: bool
) -> None:
    bench = Bench(welcome=False)
    bench.said()
    bench.now += seconds
    bench.hear(messages.Reset("e2"))
    assert lost == bench.session.reconnect
    assert [] == bench.said()
