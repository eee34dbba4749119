"""Patience with what stands still, is not heard of, or was given up, to the second."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh_worker.guard.actions import Dump, Kill, Restart, Start
from tests.guard.looks import MIB, Looks, process, worker
from tests.guard.test_recycling_bounds import halves, successor

FRESH = 200 * MIB


def look_at(*names: int, **settings: Any) -> Looks:
    return Looks(*(worker(number, FRESH) for number in names), **settings)


def test_a_stalled_worker_is_asked_after_2_seconds_told_to_leave_a_second_later_and_killed_every_5() -> None:
    look = look_at(0, 1)
    look.at(1.0)
    look.processes.insert(0, process(7, worker=False))  # none of the guard's business, and in nobody's way
    look.workers[0] = look.workers[0]._replace(state="stalled")
    full = "workers:w-0"
    assert {
        4.0: [Dump(full)],
        5.0: [Restart(full, True)],
        10.0: [Kill(full, 100)],
        15.0: [Kill(full, 100)],
    } == halves(look, 2.0, 15.5, Dump, Restart, Kill)
    assert (1, 2) == (look.state.counts["replaced stalled"], look.state.counts["kills"])


def test_the_same_worker_is_not_replaced_again_within_30_seconds() -> None:
    look = look_at(0, 1)
    look.workers[0] = look.workers[0]._replace(state="stalled")
    assert {2.0: [Dump("workers:w-0")]} == halves(look, 0.0, 2.5, Dump)
    successor(look, 200, footprint=FRESH, state="stalled")
    assert {32.0: [Dump("workers:w-0")]} == halves(look, 3.0, 32.0, Dump)


@pytest.mark.parametrize(("broker_up_s", "first"), [(1000.0, 6.0), (4.9, None), (5.0, 6.0)])
def test_a_worker_that_is_not_heard_of_any_more_is_replaced_after_5_seconds(
    broker_up_s: float, first: float | None
) -> None:
    look = look_at(0, 1)
    look.at(0.0)
    del look.workers[0]
    look.broker_up_s = broker_up_s
    assert [first] * (first is not None) == list(halves(look, 1.0, 8.0, Dump))
    assert (first is not None) == look.state.counts["replaced missing"]


@pytest.mark.parametrize(("running_s", "goes"), [(299.9, False), (300.0, True)])
def test_a_worker_that_was_never_known_is_given_300_seconds(running_s: float, goes: bool) -> None:
    look = look_at(1)
    look.processes.append(process(0, running_s=running_s))
    assert goes == bool(halves(look, 0.0, 6.0, Dump))


def given_up(look: Looks, reason: str = "no memory") -> None:
    look.processes[0] = process(0, pid=0, state="FATAL", running_s=0.0, reason=reason)
    look.workers = [each for each in look.workers if each.name != "w-0"]


def serving(look: Looks, **how: Any) -> None:
    look.processes[0] = process(0, pid=300)
    look.workers = [worker(1, FRESH), worker(0, FRESH, pid=300)._replace(**how)]


def test_what_was_given_up_is_started_after_pauses_that_double_up_to_300_seconds() -> None:
    look, started = look_at(0, 1), []
    given_up(look)
    for half in range(3000):
        now = half / 2
        if Start("workers:w-0") in look.at(now):
            started.append(now)
    # Each pause begins with the look that finds it given up once more, half a second after it was started.
    assert [10.0, 30.5, 71.0, 151.5, 312.0, 612.5, 913.0, 1213.5] == started
    assert len(started) == look.state.counts["retries"]


def test_a_process_that_was_given_up_is_forgotten_when_it_has_served_for_a_minute_without_a_break() -> None:
    look = look_at(0, 1)
    given_up(look)
    look.at(0.0)
    serving(look)
    halves(look, 1.0, 31.0)
    given_up(look, "another reason")
    look.at(31.5)
    assert "another reason" == look.state.given_up["workers:w-0"].reason
    given_up(look, "")
    look.at(32.0)
    assert "another reason" == look.state.given_up["workers:w-0"].reason
    serving(look)
    halves(look, 33.0, 50.0)
    serving(look, state="loading")
    look.at(50.5)
    serving(look)
    halves(look, 51.0, 110.5)
    assert ["workers:w-0"] == list(look.state.given_up)
    look.at(111.0)
    assert {} == look.state.given_up


def test_a_worker_of_another_machine_with_its_pid_does_not_serve_for_it() -> None:
    look = look_at(0, 1)
    given_up(look)
    look.at(0.0)
    serving(look, remote=True)
    halves(look, 1.0, 70.0)
    assert ["workers:w-0"] == list(look.state.given_up)


def test_what_an_operator_stops_is_no_longer_given_up() -> None:
    look = look_at(0, 1)
    given_up(look)
    look.at(0.0)
    look.processes[0] = process(0, pid=0, state="STOPPED")
    look.at(1.0)
    assert {} == look.state.given_up
