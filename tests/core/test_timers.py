from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_mesh_broker.core.timers import TICK_S, Alarm, Timers


def alarm(due: float) -> Alarm:
    made = Alarm(lambda: None)
    made.due = due
    return made


@given(st.lists(st.tuples(st.floats(0, 700_000), st.booleans()), max_size=40))
def test_everything_fires_once_at_its_time_or_a_tick_later_unless_removed(plan: list[tuple[float, bool]]) -> None:
    timers, now = Timers(), 0.0
    alarms = [(alarm(due), removed) for due, removed in plan]
    for each, _ in alarms:
        timers.add(each, now)
    for each, removed in alarms:
        if removed:
            timers.remove(each)
            timers.remove(each)
    fired: dict[int, float] = {}
    while (due := timers.next()) is not None:
        assert due >= now - TICK_S
        now = max(now, due)
        while (item := timers.pop(now)) is not None:
            assert id(item) not in fired
            fired[id(item)] = now
    assert {id(each) for each, removed in alarms if not removed} == fired.keys()
    for each, removed in alarms:
        if not removed:
            assert -1e-6 <= fired[id(each)] - each.due <= TICK_S + 1e-6
    assert len(timers) == 0


def test_memory_holds_only_what_waits() -> None:
    timers = Timers()
    for index in range(100_000):
        now = index * 0.0001
        each = alarm(now + 60)
        timers.add(each, now)
        timers.remove(each)
        assert timers.pop(now) is None
    assert len(timers) == 0
    assert len(timers._buckets) < 20_000


def test_an_item_can_be_moved_and_found() -> None:
    timers, each = Timers(), alarm(0)
    timers.set(each, 5.0, 0.0)
    timers.set(each, 1.0, 0.0)
    assert each in timers
    assert each is timers.pop(1.0)
    assert each not in timers


def test_what_lies_far_ahead_is_not_called_before_its_time() -> None:
    timers, late = Timers(), Alarm(lambda: None)
    timers.set(late, 96.008, 0.0)
    assert timers.pop(96.0) is None
    assert timers.pop(96.01) is late


def test_to_remove_what_is_not_there_does_no_harm() -> None:
    timers, alarm = Timers(), Alarm(lambda: None)
    timers.remove(alarm)
    timers.set(alarm, 1.0, 0.0)
    timers.remove(alarm)
    timers.remove(alarm)
    assert alarm not in timers
    assert timers.pop(2.0) is None
