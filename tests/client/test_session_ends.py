"""How calls end that are not answered: refused as a whole connection, or with the client."""

from __future__ import annotations

import pytest

from mlx_mesh import _session as module
from mlx_mesh._session import closed_error, result_of
from mlx_mesh_wire import messages, pack_body
from tests.client.test_session import Bench, error


def test_a_client_without_a_key_that_is_taken_has_all_its_calls_refused_those_that_wait_too() -> None:
    bench = Bench(outstanding_max=1)
    bench.call()
    bench.call()
    bench.hear(error(0, "UNAUTHORIZED"))
    assert ["UNAUTHORIZED", "UNAUTHORIZED"] == [bench.code(1), bench.code(2)]
    assert 0 == len(bench.session)


@pytest.mark.parametrize(("welcome", "code"), [(True, "OVERLOADED"), (False, "OVERLOADED"), (True, "PROTOCOL_ERROR")])
def test_other_errors_of_a_connection_end_no_call(welcome: bool, code: str) -> None:
    bench = Bench(welcome=welcome)
    bench.call()
    bench.hear(error(0, code))
    assert {} == bench.outcomes
    assert 1 == len(bench.session)


def test_a_session_knows_whether_it_was_welcomed_on_this_connection() -> None:
    bench = Bench(welcome=False)
    assert not bench.session.welcomed
    bench.welcome()
    assert bench.session.welcomed
    bench.session.connected(bench.now)
    assert not bench.session.welcomed


def test_an_error_with_a_pause_that_ends_at_the_deadline_is_final() -> None:
    bench = Bench()
    bench.call(timeout=4.0)
    bench.hear(error(1, "OVERLOADED", retryable=True, after_ms=3975))  # and half of 0.05 s by chance
    assert "OVERLOADED" == bench.code(1)


def test_what_a_closed_client_says_and_what_a_final_holds() -> None:
    assert "CANCELLED" == closed_error().code
    assert {"a": [1]} == result_of(pack_body({"a": [1]}))


def test_places_begin_with_64_and_are_what_the_broker_says() -> None:
    bench = Bench()
    for _ in range(65):
        bench.call()
    assert 64 == len([m for m in bench.said() if isinstance(m, messages.Request)])
    bench = Bench(outstanding_max=2)
    for _ in range(3):
        bench.call()
    assert 2 == len([m for m in bench.said() if isinstance(m, messages.Request)])
    assert 3 == len(bench.session)


def test_the_time_that_is_left_is_told_in_milliseconds_and_never_as_nothing() -> None:
    bench = Bench()
    bench.call(timeout=2.5)
    bench.call(timeout=0.0001)
    assert [2500, 1] == [message.remaining_ms for message in bench.said()]


def test_every_call_earns_a_tenth_of_a_retry() -> None:
    bench = Bench()
    for _ in range(12):
        bench.call()
        bench.hear(error(bench.said()[-1].request_id, "OVERLOADED", retryable=True))
    refused = len(bench.outcomes)
    assert refused == 1, "ten to begin with, and one that was earned"


def test_what_a_client_refuses_itself_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    bench = Bench(outstanding_max=1)
    for _ in range(3):
        bench.call()
    assert [True] == [outcome.retryable for outcome in bench.outcomes.values()]


def test_a_request_that_is_tried_again_is_none_that_may_have_run() -> None:
    bench = Bench()
    bench.call()
    (first,) = bench.said()
    bench.hear(error(first.request_id, "OVERLOADED", retryable=True))
    bench.advance(0.5)
    again = [message for message in bench.said() if isinstance(message, messages.Request)]
    assert [(2, 0)] == [(message.request_id, message.flags & messages.Flag.RESEND) for message in again]


def test_a_new_connection_has_as_much_time_as_the_first() -> None:
    bench = Bench()
    bench.call(timeout=600.0)
    bench.now += 1.0
    bench.session.tick(bench.now)
    for _ in range(4):
        bench.now += 1.0
        bench.session.tick(bench.now)
    assert bench.session.reconnect
    bench.session.connected(bench.now)
    for _ in range(4):
        bench.now += 1.0
        bench.session.tick(bench.now)
        assert not bench.session.reconnect
    bench.now += 1.0
    bench.session.tick(bench.now)
    assert bench.session.reconnect


def test_an_expired_call_says_nothing_more_whatever_its_reader_does() -> None:
    bench = Bench()
    stream = bench.call(timeout=2.0, window=2)
    bench.chunk(0)
    bench.advance(3.0)
    assert "DEADLINE_EXCEEDED" == bench.code(1)
    bench.said()
    for _ in range(2):
        bench.session.read(bench.now, stream)
    bench.session.cancel(stream)
    assert [] == bench.said()
