"""What the guard decides, each rule on a machine that obeys."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_worker.guard.actions import AddStandIn, Dump, Kill, Quiet, Remove, Restart, Start, Trim
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.samples import Sample, Signals
from mlx_mesh_worker.guard.settings import GuardSettings
from mlx_mesh_worker.guard.state import State
from tests.guard.world import MIB, World


def pair(**how: Any) -> World:
    """Return a machine of 1,000 MiB with two workers of 200 MiB; settings and figures as told."""
    figures = {name: how.pop(name) for name in ("limit_mib", "others_mib") if name in how}
    world = World(GuardSettings(**how), **{"limit_mib": 1000.0, "others_mib": 100.0, **figures})
    for number in range(2):
        world.add(f"w-{number}")
    return world


def at(world: World, share: float) -> None:
    """Let others take so much that this share of the memory is taken, and look once."""
    world.others_mib = share * world.limit_mib - world.taken()
    world.step()


def names(world: World, kind: type) -> list[str]:
    return [getattr(action, "worker", getattr(action, "process", "")) for action in world.actions(kind)]


def test_each_rung_begins_at_its_threshold_and_ends_a_little_below() -> None:
    world = pair()
    seen = []
    for share in (0.5, 0.76, 0.74, 0.71, 0.86, 0.83, 0.81, 0.93, 0.90, 0.88, 0.98, 0.95, 0.93, 0.5):
        at(world, share)
        seen.append(world.state.rung)
    assert [0, 1, 1, 0, 2, 2, 1, 3, 3, 2, 4, 4, 3, 0] == seen


def test_the_tightest_bound_counts_whatever_it_is() -> None:
    state = State(GuardSettings())
    limits = [Limit("ram", 10, 100), Limit("cgroup", 80, 100), Limit("configured", 5, 100)]
    decide(Sample(limits, Signals(), [], []), state, 1.0)
    assert (0.8, "cgroup", 1) == (state.pressure, state.source, state.rung)


def test_a_bound_of_nothing_is_taken_whole() -> None:
    state = State(GuardSettings())
    decide(Sample([Limit("cgroup", 0, 0)], Signals(), [], []), state, 1.0)
    assert state.rung == 4


@pytest.mark.parametrize(
    ("signals", "rung"),
    [
        (Signals(level=1), 0),
        (Signals(level=2), 2),
        (Signals(level=4), 3),
        (Signals(psi_some=25.0), 1),
        (Signals(psi_some=25.0, psi_full=12.0), 2),
        (Signals(psi_some=19.0, psi_full=9.0, swap_used=2**34), 0),
    ],
)
def test_signals_of_the_system_lift_the_rung(signals: Signals, rung: int) -> None:
    state = State(GuardSettings())
    decide(Sample([Limit("ram", 1, 100)], signals, [], []), state, 1.0)
    assert rung == state.rung


def test_swap_that_grows_counts_and_swap_that_is_merely_used_does_not() -> None:
    state = State(GuardSettings())
    for second in range(30):
        used = 10_000 * MIB + max(0, second - 15) * 40 * MIB
        decide(Sample([], Signals(swap_used=used), [], []), state, float(second))
        assert (2 if second >= 20 else 0) == state.rung or 16 <= second < 20
    assert "swap_growth" == state.source


def test_workers_trim_more_the_longer_it_lasts_and_are_told_when_it_is_over() -> None:
    world = pair()
    world.step()
    world.others_mib = 370
    world.run(40)
    world.others_mib = 100
    world.run(20)
    # The first one undoes what a guard before this one may have left behind.
    assert [Trim(0), Trim(1), Trim(2), Trim(2), Trim(0)] == world.actions(Trim)


def test_bulk_waits_first_and_standard_only_when_workers_have_grown_and_no_recycle_can_help() -> None:
    world = World(GuardSettings(), limit_mib=1000.0)
    world.add("w-0").footprint = 300  # The only one of its model: it has to stay.
    at(world, 0.86)
    assert "bulk" == world.state.paused
    world.run(20)
    assert "bulk" == world.state.paused
    at(world, 0.93)
    world.run(4)
    assert "standard" == world.state.paused
    at(world, 0.5)
    assert "" == world.state.paused


def test_standard_requests_do_not_wait_for_memory_that_others_take() -> None:
    world = pair()
    at(world, 0.95)
    world.run(30)
    assert "bulk" == world.state.paused


def test_a_pause_ends_after_a_minute_and_does_not_begin_anew_for_another() -> None:
    world = pair()
    at(world, 0.88)
    paused = [bool(world.step() or True) and world.state.paused for _ in range(150)]
    assert ["bulk"] * 59 + [""] * 60 + ["bulk"] * 31 == paused


def test_a_pause_that_lasts_turns_into_a_recycle() -> None:
    world = pair()
    world.processes[1].footprint = 300
    at(world, 0.88)
    world.run(70)
    assert ["w-1"] == names(world, Quiet)
    assert "pause" == world.said("recycle")[0]["reason"]
    assert "recycled" in {action.event for _, action, _ in world.done if hasattr(action, "event")}


def test_above_the_third_threshold_the_one_that_grew_most_goes_and_comes_back() -> None:
    world = pair()
    world.processes[0].footprint, world.processes[1].footprint = 240, 300
    world.run(40)
    at(world, 0.93)
    world.run(3)
    world.others_mib = 100
    world.run(10)
    assert ["w-1"] == names(world, Quiet)
    assert [Restart("workers:w-1", False)] == world.actions(Restart)
    assert [("w-1", "memory")] == [(line["worker"], line["reason"]) for line in world.said("recycled")]


def test_a_worker_over_its_budget_goes_before_one_that_grew_more() -> None:
    world = pair(max_footprint_bytes=290 * MIB, surge=0)
    world.processes[0].footprint, world.processes[1].footprint = 280, 300
    world.processes[0].base_mib = 150
    world.run(2)
    at(world, 0.93)
    world.run(40)
    assert "w-1" == names(world, Quiet)[0]


def test_the_last_ready_worker_stays_below_the_last_threshold_and_is_stopped_at_once_above_it() -> None:
    world = World(GuardSettings(), limit_mib=1000.0)
    world.add("w-0").footprint = 400
    world.run(40)
    at(world, 0.96)
    world.run(200)
    assert [] == world.actions(Quiet) + world.actions(Restart)
    at(world, 0.975)
    assert [Restart("workers:w-0", True)] == world.actions(Restart)


def test_what_gives_nothing_back_is_not_stopped_and_an_operator_is_told_once() -> None:
    world = pair()
    at(world, 0.99)
    world.run(100)
    assert [] == world.actions(Restart)
    assert 1 == len(world.said("no_relief"))


def test_a_recycle_that_drains_is_hurried_when_it_gets_tight() -> None:
    world = pair()
    world.processes[1].footprint, world.processes[1].drain_s = 300, 25
    world.run(40)
    at(world, 0.93)
    world.run(3)
    assert ["w-1"] == names(world, Quiet)
    at(world, 0.98)
    assert [Restart("workers:w-1", True)] == world.actions(Restart)


def test_a_worker_that_holds_work_for_too_long_hands_it_back() -> None:
    world = pair(drain_s=10.0)
    world.processes[1].footprint, world.processes[1].drain_s = 300, 500
    world.run(40)
    at(world, 0.93)
    world.run(20)
    assert [Restart("workers:w-1", True)] == world.actions(Restart)


def test_a_young_worker_is_left_alone() -> None:
    world = pair()
    world.processes[1].footprint = 300
    at(world, 0.93)
    world.run(25)
    assert [] == world.actions(Quiet)


@pytest.mark.parametrize(("limits", "reason"), [({"max_age_s": 100.0}, "age"), ({"max_served": 100}, "served")])
def test_worn_workers_go_one_after_the_other_each_behind_a_stand_in(limits: dict[str, Any], reason: str) -> None:
    world = pair(limit_mib=3000.0, **limits)
    world.run(130)
    begun = [line for line in world.said("recycle") if line["reason"] == reason][:2]
    assert {"w-0", "w-1"} == {line["worker"] for line in begun}
    stand_in = next(at for at, action, _ in world.done if isinstance(action, AddStandIn))
    quiet = next(at for at, action, _ in world.done if isinstance(action, Quiet))
    assert quiet >= stand_in + 2  # It was warm first.
    assert names(world, Remove)[0].startswith("workers:workers-")


def test_without_memory_for_a_stand_in_a_peer_must_do() -> None:
    world = pair(max_age_s=100.0, limit_mib=700.0)
    world.run(130)
    assert [] == world.actions(AddStandIn)
    assert {"w-0", "w-1"} <= set(names(world, Quiet))


def test_a_stand_in_that_does_not_start_ends_the_recycle_and_is_removed() -> None:
    world = World(GuardSettings(max_age_s=50.0), limit_mib=3000.0, stand_ins_break=True)
    world.add("w-0")
    world.run(60)
    assert "it broke" in str(world.said("recycle_failed")[0]["why"])
    assert ["workers:workers-1"] == names(world, Remove)
    assert [] == names(world, Quiet) + names(world, Restart)


def test_a_new_guard_goes_on_with_what_the_last_one_began() -> None:
    world = pair()
    world.processes[1].drained_at, world.processes[1].drained_by = world.now + 3, "guard"
    world.add("w-2").stand_in = True
    world.run(15)
    assert [Restart("workers:w-1", False)] == world.actions(Restart)
    assert ["workers:w-2"] == names(world, Remove)
    assert ["adopted"] == [line["reason"] for line in world.said("recycled")]


def test_what_an_operator_drains_is_left_to_him() -> None:
    world = pair()
    world.processes[1].drained_at, world.processes[1].drained_by = world.now, "operator"
    world.run(100)
    assert [] == world.actions(Restart)


def test_an_operator_who_stops_a_worker_in_the_midst_of_its_recycle_wins() -> None:
    world = pair(max_age_s=50.0, surge=0)
    world.run(52)
    name = names(world, Quiet)[0]
    process = world.named(f"workers:{name}")
    world.step()
    process.state, process.pid, process.restarting, process.gone_at = "STOPPED", 0, False, None
    world.run(50)
    assert "STOPPED" == process.state
    assert "stopped by somebody" in str(world.said("recycle_failed")[0]["why"])


def test_a_stalled_worker_writes_its_stacks_then_leaves() -> None:
    world = pair()
    world.processes[0].stalled = True
    world.run(10)
    order = [type(action) for action in (a for _, a, _ in world.done) if isinstance(action, Dump | Restart | Kill)]
    assert [Dump, Restart] == order
    assert not world.processes[0].stalled


def test_one_that_is_silent_and_does_not_obey_is_killed() -> None:
    world = pair()
    world.step()
    world.processes[0].frozen = True
    world.run(20)
    order = [type(action) for action in (a for _, a, _ in world.done) if isinstance(action, Dump | Restart | Kill)]
    assert [Dump, Restart, Kill] == order
    assert ["missing"] == [line["why"] for line in world.said("replaced")]
    assert "RUNNING" == world.processes[0].state


def test_nobody_is_missing_to_a_broker_that_has_just_started() -> None:
    world = pair()
    world.run(2)
    sample = world.sample()._replace(workers=[], broker_up_s=3.0)
    for second in range(4):
        assert not [a for a in decide(sample, world.state, world.now + second) if isinstance(a, Dump)]


def test_what_supervisord_gave_up_is_started_again_with_growing_pauses() -> None:
    world = pair()
    world.processes[0].broken = True
    world.run(700)
    starts = [at for at, action, _ in world.done if isinstance(action, Start)]
    pauses = [round(b - a) for a, b in pairwise(starts)]
    assert sorted(pauses) == pauses
    assert pauses[0] < 30 < pauses[-1]
    world.processes[0].broken = False
    world.run(400)
    assert "RUNNING" == world.processes[0].state
    assert {} == world.state.given_up


def test_a_process_that_an_operator_stopped_is_left_stopped() -> None:
    world = pair()
    world.processes[0].state, world.processes[0].pid = "STOPPED", 0
    world.run(400)
    assert [] == world.actions(Start)


def test_nothing_is_done_while_supervisord_stops_everything() -> None:
    world = pair()
    at(world, 0.99)
    sample = world.sample()._replace(stopping=True)
    assert [] == decide(sample, world.state, world.now + 1)
    assert "" == world.state.paused


def test_without_a_broker_nobody_is_recycled() -> None:
    world = pair()
    world.processes[1].footprint = 500
    world.run(40)
    world.broker_away_until = world.now + 100
    at(world, 0.98)
    world.run(50)
    assert [] == world.actions(Quiet) + world.actions(Restart)
