"""The ladder to the second and to the byte: each of its bounds is in the tables of ``docs/operations.md``."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh_wire.guard_report import RUNGS
from mlx_mesh_worker.guard.actions import Quiet, Restart, Trim
from mlx_mesh_worker.guard.samples import Signals
from tests.guard.looks import LIMIT, MIB, Looks, worker


def rung(look: Looks) -> str:
    return RUNGS[look.state.rung]


def grown() -> Looks:
    """Return two workers that have grown once, in a machine that has room for no third."""
    return Looks(worker(0), worker(1))


@pytest.mark.parametrize(("threshold", "name"), [(0.75, "trim"), (0.85, "pause"), (0.92, "recycle"), (0.97, "stop")])
def test_a_rung_begins_at_its_threshold_and_ends_a_little_below(threshold: float, name: str) -> None:
    look, number = Looks(), RUNGS.index(name)
    for used, expected in ((threshold - 0.001, number - 1), (threshold, number), (threshold - 0.029, number)):
        look.used = used
        look.at(0.0)
        assert RUNGS[expected] == rung(look)
    look.used = threshold - 0.031
    look.at(0.0)
    assert number > look.state.rung


@pytest.mark.parametrize(
    ("signals", "name"),
    [
        (Signals(psi_some=19.9), "calm"),
        (Signals(psi_some=20.0), "trim"),
        (Signals(psi_full=9.9), "calm"),
        (Signals(psi_full=10.0), "pause"),
        (Signals(level=1), "calm"),
        (Signals(level=2), "pause"),
        (Signals(level=3), "pause"),
        (Signals(level=4), "recycle"),
        (Signals(swap_used=1 << 40), "calm"),
    ],
)
def test_the_systems_own_signals_lift_the_pressure_from_their_bounds_on(signals: Signals, name: str) -> None:
    look = Looks()
    look.signals = signals
    look.at(0.0)
    assert name == rung(look)


@pytest.mark.parametrize(
    ("grown_by", "after_s", "name"),
    [(160 * MIB, 10.0, "pause"), (160 * MIB - 1, 10.0, "calm"), (160 * MIB, 10.5, "calm")],
)
def test_swap_that_grows_by_16_mib_a_second_over_10_seconds_is_pressure(
    grown_by: int, after_s: float, name: str
) -> None:
    look = Looks()
    for now, used in ((0.0, 0), (after_s, grown_by)):
        look.signals = Signals(swap_used=used)
        look.at(now)
    assert name == rung(look)


@pytest.mark.parametrize(("of_swap", "source"), [(None, "psi_some"), (0, "psi_some"), (None, "")])
def test_a_signal_that_is_as_high_as_what_is_taken_is_not_what_it_is_about(of_swap: int | None, source: str) -> None:
    look = Looks()
    look.limit = 0 if source else look.limit
    look.used, look.signals = 0.75, Signals(psi_some=20.0, swap_used=of_swap)
    look.at(0.0)
    assert (0.75, source or "ram") == (look.state.pressure, look.state.source)


def test_a_signal_that_is_lower_than_what_is_taken_changes_nothing() -> None:
    look = Looks()
    look.used, look.signals = 0.97, Signals(psi_full=50.0)
    look.at(0.0)
    assert ("stop", "ram", 0.97) == (rung(look), look.state.source, look.state.pressure)


def test_workers_trim_at_once_harder_after_5_seconds_again_every_30_and_are_told_after_10_of_calm() -> None:
    look = Looks()
    look.used = 0.75
    times = {now / 2: look.at(now / 2) for now in range(132)}
    assert {0.0: [Trim(1)], 5.0: [Trim(2)], 35.0: [Trim(2)], 65.0: [Trim(2)]} == {k: v for k, v in times.items() if v}
    look.used = 0.5
    times = {now / 2: look.at(now / 2) for now in range(132, 200)}
    assert {76.0: [Trim(0)]} == {k: v for k, v in times.items() if v}
    assert 4 == look.state.counts["trims"]


def test_a_guard_that_begins_in_calm_tells_workers_so_and_says_nothing_of_it() -> None:
    look = Looks()
    assert [[], [Trim(0)], []] == [look.at(now) for now in (9.5, 10.0, 10.5)]
    assert [] == look.said()


def test_bulk_requests_wait_for_a_minute_at_most_and_not_again_for_a_minute() -> None:
    look = Looks()
    look.used = 0.85
    paused: dict[float, str] = {}
    pauses: list[Any] = []
    for half in range(400):
        look.at(half / 2)
        if "pause" in look.said() or "resume" in look.said():
            paused[half / 2] = look.state.paused
        pauses += [action.fields["seconds"] for action in look.seen if getattr(action, "event", "") == "resume"]
    assert {0.0: "bulk", 60.0: "", 120.0: "bulk", 180.0: ""} == paused
    assert [60.0, 60.0] == pauses
    assert 2 == look.state.counts["pauses"]


def test_a_pause_ends_below_its_rung_and_may_begin_again_at_once() -> None:
    look = Looks()
    for now, (used, lane) in enumerate([(0.85, "bulk"), (0.83, "bulk"), (0.81, ""), (0.85, "bulk")]):
        look.used = used
        look.at(float(now))
        assert lane == look.state.paused


def test_standard_requests_wait_after_3_seconds_when_workers_have_grown_and_none_may_go() -> None:
    look = Looks(worker(0, 240 * MIB))  # by what is worth a recycle, to the byte: 2 % of the limit
    look.at(4.0)
    look.used = 0.92
    lanes = {}
    for now in (5.0, 7.5, 8.0, 8.5):
        look.at(now)
        lanes[now] = look.state.paused
    assert {5.0: "bulk", 7.5: "bulk", 8.0: "standard", 8.5: "standard"} == lanes


@pytest.mark.parametrize("taken", [240 * MIB - 1, 200 * MIB])
def test_standard_requests_go_on_when_no_worker_has_grown(taken: int) -> None:
    look = Looks(worker(0, taken))
    look.used = 0.92
    look.at(0.0)
    look.at(10.0)
    assert "bulk" == look.state.paused


def test_a_worker_that_grew_once_goes_after_2_seconds_of_pressure() -> None:
    look = grown()
    look.at(10.0)
    look.used = 0.92
    done = {now: [a for a in look.at(now) if not isinstance(a, Trim)] for now in (11.0, 12.5, 13.0)}
    assert {11.0: [], 12.5: [], 13.0: [Quiet("w-0", 100)]} == done
    assert 1 == look.state.counts["recycles memory"]


def test_a_pause_that_has_lasted_too_long_turns_into_a_recycle() -> None:
    look = grown()
    look.used = 0.85
    done = {now: [a for a in look.at(now) if isinstance(a, Quiet)] for now in (0.0, 59.5, 60.0)}
    assert {0.0: [], 59.5: [], 60.0: [Quiet("w-0", 100)]} == done
    assert 1 == look.state.counts["recycles pause"]


@pytest.mark.parametrize(
    ("limit", "how", "goes"),
    [
        (500 * MIB, {"footprint": 216 * MIB}, True),
        (500 * MIB, {"footprint": 216 * MIB - 1}, False),
        (LIMIT, {"footprint": 240 * MIB}, True),
        (LIMIT, {"footprint": 240 * MIB - 1}, False),
        (0, {"footprint": 216 * MIB}, True),
        (0, {"footprint": 216 * MIB - 1}, False),
        (LIMIT, {"memory": {"rss_ready": 200 * MIB, "kv": 160 * MIB}}, True),
        (LIMIT, {"memory": {"rss_ready": 200 * MIB, "kv": 160 * MIB + 1}}, False),
        (LIMIT, {"uptime_s": 30.0}, True),
        (LIMIT, {"uptime_s": 29.9}, False),
        (LIMIT, {"footprint": None}, False),
    ],
)
def test_a_recycle_has_to_give_back_enough_of_a_worker_that_is_old_enough(
    limit: int, how: dict[str, Any], goes: bool
) -> None:
    """16 MiB and 2 % of the tightest limit, key-value caches left out; 30 s."""
    look = Looks(worker(0)._replace(**how), worker(1, 200 * MIB))
    look.limit, look.used, look.signals = limit, 0.92, Signals(level=4)
    assert goes == any(isinstance(action, Quiet) for now in (0.0, 2.0) for action in look.at(now))


def test_at_the_last_rung_the_guard_acts_with_its_first_look() -> None:
    look = Looks(worker(0))
    look.used = 0.97
    assert [Restart("workers:w-0", True), Trim(2)] == look.at(0.0)
    assert "bulk" == look.state.paused
    assert 1 == look.state.counts["recycles stop"]
