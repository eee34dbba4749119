"""Recycles, replacements and tries to the second: each pause is in ``docs/operations.md``."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh_worker.guard.actions import AddStandIn, Kill, Quiet, Remove, Restart
from mlx_mesh_worker.guard.candidates import Candidate
from mlx_mesh_worker.guard.growth import Growth
from mlx_mesh_worker.guard.ladder import figures
from mlx_mesh_worker.guard.settings import GuardSettings
from mlx_mesh_worker.guard.state import State
from mlx_mesh_worker.guard.trend import Trend
from tests.guard.looks import MIB, Looks, process, worker

FRESH = 200 * MIB


def successor(look: Looks, pid: int, **how: Any) -> None:
    """Have the first worker be another process from now on."""
    look.workers[0] = worker(0, pid=pid, **how)
    look.processes[0] = process(0, pid=pid)


def halves(look: Looks, first: float, last: float, *kinds: type) -> dict[float, list[Any]]:
    """Look twice a second, and return when something of these kinds was done."""
    found = {
        half / 2: [action for action in look.at(half / 2) if isinstance(action, kinds)]
        for half in range(int(first * 2), int(last * 2) + 1)
    }
    return {now: actions for now, actions in found.items() if actions}


def stops(calm: tuple[float, float], until: float) -> list[float]:
    """Return when a worker is stopped whose every successor grows at once, with memory at its end but for a time."""
    look, pid, stopped = Looks(worker(0)), 100, []
    for half in range(int(until * 2) + 1):
        now = half / 2
        look.used = 0.5 if calm[0] <= now < calm[1] else 0.97
        if any(isinstance(action, Restart) for action in look.at(now)):
            stopped.append(now)
            pid += 1
            successor(look, pid)
    assert len(stopped) == look.state.counts["recycles stop"]
    return stopped


def test_the_same_worker_is_stopped_again_after_pauses_that_double_up_to_300_seconds() -> None:
    assert [0, 10, 30, 70, 150, 310, 610, 910] == stops((0, 0), 911)


@pytest.mark.parametrize(("calm_s", "then"), [(299.5, 40), (300, 10)])
def test_only_a_worker_that_was_not_stopped_for_300_seconds_is_treated_as_at_first(calm_s: float, then: float) -> None:
    """Counted from when it might have been stopped for the third time, 20 s after the second."""
    again = 30 + calm_s
    assert [0, 10, again, again + then] == stops((12, again), again + then)


def test_that_nobody_would_give_enough_back_is_said_once_and_once_more_after_somebody_did() -> None:
    look = Looks(worker(0, FRESH))
    look.used = 0.97
    said = []
    for half in range(60):
        now = half / 2
        if now == 5.0:
            look.workers[0] = worker(0)
        if any(isinstance(action, Restart) for action in look.at(now)):
            successor(look, 101, footprint=FRESH)
        if "no_relief" in look.said():
            said.append(now)
    assert [0.0, 15.0] == said


@pytest.mark.parametrize(
    ("how", "goes"),
    [
        ({}, True),
        ({"footprint": 300 * MIB}, False),
        ({"uptime_s": 30.0}, True),
        ({"uptime_s": 29.9}, False),
        ({"memory": {"rss_ready": 300 * MIB}}, True),
        ({"memory": {"rss_ready": 300 * MIB + 1}}, False),
        ({"memory": {"rss_ready": FRESH, "kv": FRESH}}, False),
        ({"memory": {"rss_ready": FRESH, "kv": FRESH - 1}}, True),
    ],
)
def test_a_worker_goes_that_was_over_its_budget_for_5_seconds_if_that_helps(how: dict[str, Any], goes: bool) -> None:
    look = Looks(worker(0)._replace(**how), worker(1, FRESH), max_footprint_bytes=300 * MIB, surge=0)
    assert {} == halves(look, 1.0, 5.5, Quiet)
    assert ({6.0: [Quiet("w-0", 100)]} if goes else {}) == halves(look, 6.0, 6.0, Quiet)


def test_the_time_over_a_budget_counts_anew_when_it_was_kept_meanwhile() -> None:
    look = Looks(worker(0), worker(1, FRESH), max_footprint_bytes=300 * MIB, surge=0)
    halves(look, 0.0, 4.0)
    look.workers[0] = worker(0, FRESH)
    look.at(4.5)
    look.workers[0] = worker(0)
    assert {10.0: [Quiet("w-0", 100)]} == halves(look, 5.0, 10.0, Quiet)


@pytest.mark.parametrize(
    ("settings", "how", "reason"),
    [
        ({"max_age_s": 500.0}, {"uptime_s": 500.0}, ""),
        ({"max_age_s": 500.0}, {"uptime_s": 500.5}, "age"),
        ({"max_served": 10}, {"served": 10}, ""),
        ({"max_served": 10}, {"served": 11}, "served"),
    ],
)
def test_age_and_work_count_when_they_are_more_than_allowed(
    settings: dict[str, Any], how: dict[str, Any], reason: str
) -> None:
    look = Looks(worker(0, FRESH)._replace(**how), worker(1, FRESH, uptime_s=1.0), surge=0, **settings)
    look.at(0.0)
    assert ([reason] if reason else []) == [recycle.reason for recycle in look.state.recycles.values()]


def test_nobody_leaks_or_is_over_a_budget_that_he_just_keeps_or_whose_memory_is_not_known() -> None:
    state = State(GuardSettings(max_footprint_bytes=300 * MIB))
    for footprint, suspicious in ((300 * MIB, False), (300 * MIB + 1, True)):
        assert suspicious == Candidate(worker(0, footprint), process(0), state, 0.0).suspicious
    unknown = Candidate(worker(0, memory={})._replace(footprint=None), process(0), state, 0.0)
    assert (0, 0, 0) == (unknown.footprint, unknown.grown, unknown.gain)


def test_a_baseline_is_what_the_worker_says_else_what_was_seen_first_else_what_there_is() -> None:
    state, silent = State(GuardSettings()), worker(0, memory={})
    assert 400 * MIB == state.baseline(silent)
    state.growths[silent.pid] = Growth()
    assert 400 * MIB == state.baseline(silent)
    state.growths[silent.pid].add(0.0, 300 * MIB)
    assert 300 * MIB == state.baseline(silent)
    assert FRESH == state.baseline(worker(0))
    assert 0 == state.baseline(silent._replace(pid=7, footprint=None))


def test_log_lines_have_whole_mebibytes() -> None:
    look = Looks(worker(0))
    look.at(0.0)
    assert {"pressure": 0.5, "of": "ram", "used_mib": 1000, "limit_mib": 2000} == figures(look.sample(), look.state)


def drained(held: int = 1, **settings: Any) -> Looks:
    """Return a machine on which a worker that is too old has just been told to drain."""
    look = Looks(worker(0, FRESH, held=held), worker(1, FRESH, uptime_s=1.0), max_age_s=500.0, surge=0, **settings)
    assert [Quiet("w-0", 100)] == [action for action in look.at(1.0) if isinstance(action, Quiet)]
    look.workers[0] = look.workers[0]._replace(state="draining", drained_by="guard")
    return look


def test_a_drain_has_30_seconds_and_what_does_not_leave_is_killed_every_5() -> None:
    look = drained()
    assert {
        31.0: [Restart("workers:w-0", True)],
        36.0: [Kill("workers:w-0", 100)],
        41.0: [Kill("workers:w-0", 100)],
    } == (halves(look, 1.5, 45.5, Restart, Kill))
    assert 2 == look.state.counts["kills"]


def test_a_worker_that_holds_nothing_leaves_at_once_in_peace_and_is_killed_5_seconds_later() -> None:
    look = Looks(worker(0))
    look.used = 0.97
    look.at(0.0)
    assert {5.0: [Kill("workers:w-0", 100)]} == halves(look, 0.5, 9.5, Kill)
    look = drained(held=0)
    assert {1.5: [Restart("workers:w-0", False)]} == halves(look, 1.5, 5.0, Restart)


def test_after_a_worker_has_gone_the_figures_have_3_seconds_to_show_it() -> None:
    look = Looks(worker(0), worker(1, serves=frozenset({("other", "model")})))
    look.used = 0.97
    assert Restart("workers:w-0", True) in look.at(1.0)
    successor(look, 200, state="loading")
    assert {5.0: [Restart("workers:w-1", True)]} == halves(look, 2.0, 6.0, Restart)


def test_a_successor_has_300_seconds_and_its_worker_is_left_alone_for_60_more_if_it_fails() -> None:
    look = drained(held=0)
    look.at(2.0)
    successor(look, 200, state="loading")
    look.at(3.0)
    look.at(302.5)
    assert ["w-0"] == list(look.state.recycles)
    look.at(303.0)
    assert [] == list(look.state.recycles)
    assert "recycle_failed" in look.said()
    successor(look, 200, footprint=FRESH)
    assert {363.0: [Quiet("w-0", 200)]} == halves(look, 303.5, 363.0, Quiet)


def test_a_stand_in_is_given_up_when_memory_gets_short_and_its_worker_may_go_at_once() -> None:
    look = Looks(worker(0), worker(1, FRESH, uptime_s=1.0), max_age_s=500.0)
    look.used = 0.2
    assert AddStandIn("workers:w-0") in look.at(0.0)
    look.used = 0.97
    assert Restart("workers:w-0", True) in look.at(0.5)
    assert 1 == look.state.counts["recycle failures"]


@pytest.mark.parametrize(("others", "room"), [(1300 * MIB, True), (1300 * MIB + 1, False)])
def test_a_stand_in_needs_room_below_the_rung_of_pauses(others: int, room: bool) -> None:
    """A worker takes 400 MiB, and 85 % of the machine are 1,700."""
    look = Looks(worker(0), max_age_s=500.0)
    look.used = others / look.limit
    assert room == (AddStandIn("workers:w-0") in look.at(0.0))


@pytest.mark.parametrize(("serves", "goes"), [("other", True), ("op", False)])
def test_what_a_worker_serves_is_not_taken_from_two_at_once(serves: str, goes: bool) -> None:
    look = drained()
    look.workers += [worker(n, serves=frozenset({(serves, "model")}), uptime_s=400.0) for n in (2, 3)]
    look.processes += [process(n) for n in (2, 3)]
    look.at(2.0)
    look.workers[2] = look.workers[2]._replace(uptime_s=501.0)
    assert goes == (Quiet("w-2", 102) in look.at(3.0))


@pytest.mark.parametrize(("running_s", "goes"), [(299.9, False), (300.0, True)])
def test_a_worker_of_the_group_that_is_loading_holds_recycles_up_for_300_seconds(running_s: float, goes: bool) -> None:
    look = Looks(worker(0), worker(1, uptime_s=1.0), worker(2, state="loading"), max_age_s=500.0, surge=0)
    look.processes[2] = process(2, running_s=running_s)
    assert goes == (Quiet("w-0", 100) in look.at(0.0))


@pytest.mark.parametrize("added", [False, True])
def test_why_a_stand_in_did_not_start_is_said(added: bool) -> None:
    look = Looks(worker(0, FRESH), max_age_s=500.0, start_max_s=10.0)
    look.used = 0.2
    look.at(0.0)
    if added:
        look.processes.append(process(9, stand_in=True))
    look.at(10.0 if added else 3.0)
    (failed,) = [action.fields for action in look.seen if getattr(action, "event", "") == "recycle_failed"]
    what = "it was not ready in time" if added else "supervisord did not add one"
    assert f"its stand-in did not start: {what}" == failed["why"]


def test_a_stand_in_of_an_earlier_guard_stays_as_long_as_its_recycle_goes_on() -> None:
    look = Looks(worker(0, held=1, state="draining", drained_by="guard"), worker(9, FRESH))
    look.processes[1] = process(9, stand_in=True)
    assert [] == [action for action in look.at(0.0) if isinstance(action, Remove)]
    assert "workers:w-9" == look.state.recycles["w-0"].stand_in


def test_growth_shows_within_seconds_and_counts_for_a_choice_after_eight() -> None:
    growth, suspicious = Growth(), []
    for second in range(12):
        growth.add(float(second), FRESH + second * 10 * MIB)
        if growth.suspicious(float(second)):
            suspicious.append(second)
    assert [8, 9, 10, 11] == suspicious
    assert pytest.approx(10 * MIB) == growth.slope
    assert not growth.leaking(11.0)


@pytest.mark.parametrize(("step", "leaks"), [(3355444, True), (3355443, False)])
def test_a_leak_is_16_mib_in_a_minute_of_buckets_of_10_seconds(step: int, leaks: bool) -> None:
    """Of a process of 100 MiB; the growth is seen over the five steps between six buckets."""
    trend = Trend()
    for second in range(60):
        trend.add(float(second), 100 * MIB + (second // 10) * step)
    assert not trend.leaking(59.9)
    assert leaks == trend.leaking(60.0)
