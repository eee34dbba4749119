"""What a client's session is made of: its agenda, its retries, and how far a reader is."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh import _received
from mlx_mesh._agenda import STALE_MAX, Agenda
from mlx_mesh._options import options
from mlx_mesh._pending import CREDIT_AFTER_S, Pending
from mlx_mesh._received import Received
from mlx_mesh._retry import BACKOFF_FIRST_S, BACKOFF_MAX_S, BUDGET_MAX, RetryBudget
from mlx_mesh_wire import InvalidRequestError, OverloadedError, pack_body

CHOSEN = options(model=None, timeout=1.0, lane="standard", at_most_once=False, wait_for_ready=False)


def pending(window: int = 0) -> Pending:
    return Pending(CHOSEN.call("echo", pack_body("x"), window), 1.0, lambda *_: None, lambda *_: None)


def agenda(*whens: float) -> tuple[Agenda, list[Pending]]:
    made, calls = Agenda(), [pending() for _ in whens]
    for when, call in zip(whens, calls, strict=True):
        made.add(when, call, retry=False)
    return made, calls


def end(agenda: Agenda, *calls: Pending) -> None:
    for call in calls:
        call.ended = True
        agenda.ended()


def test_what_is_due_comes_in_order_of_time_and_then_as_it_was_noted() -> None:
    made, (third, first, second) = agenda(3.0, 1.0, 1.0)
    made.add(1.0, third, retry=True)
    assert 1.0 == made.next()
    assert made.due(0.9) is None
    assert [(first, False), (second, False), (third, True), None] == [made.due(1.0) for _ in range(4)]
    assert 3.0 == made.next()
    assert (third, False) == made.due(3.0)
    assert made.next() is None


def test_an_ended_call_is_never_due() -> None:
    made, (first, second) = agenda(1.0, 2.0)
    end(made, first)
    assert (second, False) == made.due(2.0)


def test_nobody_is_woken_for_a_call_that_has_ended() -> None:
    made, (first, second) = agenda(1.0, 2.0)
    made.add(1.5, first, retry=True)
    end(made, first)
    assert 2.0 == made.next()
    assert [second] == list(made)
    end(made, second)
    assert made.next() is None


def test_ended_calls_are_dropped_once_they_are_many_and_the_larger_part() -> None:
    many = 4 * STALE_MAX
    made, calls = agenda(*map(float, range(many)))
    end(made, *calls[: many // 2])
    assert many == len(list(made)), "a rebuild would cost more than the calls that ended"
    end(made, calls[many // 2])
    assert calls[many // 2 + 1 :] == list(made)


def test_a_few_ended_calls_are_kept_however_large_a_part_they_are() -> None:
    made, calls = agenda(*map(float, range(STALE_MAX + 10)))
    end(made, *calls[:STALE_MAX])
    assert calls == list(made)
    end(made, calls[STALE_MAX])
    assert calls[STALE_MAX + 1 :] == list(made)
    late = [pending() for _ in range(STALE_MAX)]
    for call in late:
        made.add(1e4, call, retry=False)
    end(made, *late)
    assert STALE_MAX + 9 == len(list(made)), "those that were dropped do not count again"


def test_ended_calls_whose_time_has_come_do_not_count_as_in_the_way() -> None:
    made, calls = agenda(*[1.0] * STALE_MAX)
    end(made, *calls)
    assert made.due(2.0) is None
    later = [pending() for _ in range(STALE_MAX)]
    for call in later:
        made.add(3.0, call, retry=False)
    end(made, *later)
    assert later == list(made)


def test_the_order_outlives_that_ended_calls_are_dropped() -> None:
    spread = [float(number * 7919 % 2003) for number in range(3 * STALE_MAX)]
    made, calls = agenda(*spread)
    left = {id(call): when for call, when in zip(calls, spread, strict=True)}
    soonest = sorted(calls, key=lambda call: left[id(call)])
    end(made, *soonest[: 2 * STALE_MAX])
    found = []
    while (item := made.due(1e9)) is not None:
        found.append(left[id(item[0])])
    assert sorted(found) == found
    assert STALE_MAX == len(found)


def overloaded(after_ms: int = 0) -> OverloadedError:
    return OverloadedError("full", retryable=True, retry_after_ms=after_ms)


def test_pauses_double_up_to_a_bound_half_of_each_by_chance() -> None:
    for chance, share in ((0.0, 0.5), (1.0, 1.5)):
        pauses = [RetryBudget(lambda chance=chance: chance).pause_s(overloaded(), retries) for retries in range(8)]
        whole = [BACKOFF_FIRST_S * factor for factor in (1, 2, 4, 8, 16, 32)] + [BACKOFF_MAX_S] * 2
        assert pytest.approx([each * share for each in whole]) == pauses


def test_chance_only_adds_to_what_the_broker_asked_for() -> None:
    assert pytest.approx(3.0) == RetryBudget(lambda: 0.0).pause_s(overloaded(3000), 0)
    assert pytest.approx(3.0 + BACKOFF_FIRST_S) == RetryBudget(lambda: 1.0).pause_s(overloaded(3000), 0)


def spent(budget: RetryBudget) -> int:
    """Return how many retries there were."""
    return next(count for count in range(100) if budget.pause_s(overloaded(), 0) is None)


def test_ten_retries_are_free_and_each_further_one_takes_ten_requests() -> None:
    budget = RetryBudget(lambda: 0.5)
    budget.earn()
    assert int(BUDGET_MAX) == spent(budget), "nothing is saved beyond that"
    for _ in range(9):
        budget.earn()
    assert 0 == spent(budget)
    for _ in range(2):
        budget.earn()
    assert 1 == spent(budget)


def test_what_is_final_is_not_tried_again_and_costs_nothing() -> None:
    budget = RetryBudget(lambda: 0.5)
    assert budget.pause_s(InvalidRequestError("no"), 0) is None
    assert int(BUDGET_MAX) == spent(budget)


def test_a_reader_grants_half_a_window_at_a_time() -> None:
    reader = pending(window=4)
    assert [0, 2, 0, 2] == [reader.take(0.25) for _ in range(4)]


def test_a_reader_that_is_slow_grants_what_it_has_read_after_a_second() -> None:
    reader = pending(window=100)
    assert 0 == reader.take(5.0)
    assert 0 == reader.take(5.0 + CREDIT_AFTER_S / 2)
    assert 3 == reader.take(5.0 + CREDIT_AFTER_S)
    assert 0 == reader.take(5.5 + CREDIT_AFTER_S)
    assert 2 == reader.take(5.0 + 2 * CREDIT_AFTER_S)


def test_the_room_is_what_the_reader_has_not_taken_less_what_has_come() -> None:
    reader = pending(window=4)
    reader.next_seq = 3
    assert 1 == reader.room()
    reader.take(0.0)
    assert 2 == reader.room()
    reader.next_seq = 9
    assert 0 == reader.room(), "more has come than there was room for"


def chunk(tokens: Any) -> list[Any]:
    return pack_body({"tokens": tokens})


def test_a_state_may_be_as_long_as_the_longest_answer_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_received, "STATE_MAX_BYTES", 8)
    received = Received()
    assert b"" == received.state()
    received.add(chunk([1, 2]))
    assert b"\1\0\0\0\2\0\0\0" == received.state()
    received.add(chunk([3]))
    assert received.state() is None


@pytest.mark.parametrize("frames", [chunk([-1]), chunk([1 << 32]), chunk(["a"]), chunk(None), pack_body([]), [b"\xc1"]])
def test_a_chunk_that_names_no_tokens_makes_the_state_unknown_for_good(frames: list[Any]) -> None:
    received = Received()
    received.add(frames)
    received.add(chunk([1]))
    assert received.state() is None
