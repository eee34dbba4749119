"""Recycles that somebody interrupts: whatever happens, nobody stays drained, stopped or beside the others for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_mesh_worker.guard.actions import AddStandIn, Kill, Quiet, Remove, Restart, Trim
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.settings import GuardSettings
from tests.guard.world import MIB, World


def lonely(**how: Any) -> World:
    """Return a machine with the only worker of a model and memory for a stand-in, at the end of the worker's age."""
    world = World(GuardSettings(max_age_s=50.0, **how), limit_mib=3000.0)
    world.add("workers-0", load_s=5.0, drain_s=4.0)
    world.run(51)
    assert "stand-in" == phase(world)
    return world


def phase(world: World) -> str:
    return next((recycle.phase for recycle in world.state.recycles.values()), "")


def run_to(world: World, wanted: str) -> None:
    for _ in range(60):
        if phase(world) == wanted:
            return
        world.step()
    raise AssertionError(f"no phase {wanted!r}")


def check_settled(world: World) -> None:
    """All that was begun comes to its end, and the worker serves that did before."""
    for _ in range(40):
        world.step()
        assert world.serving(), "nobody serves"
    assert ["workers-0"] == [process.name for process in world.processes]
    assert not world.state.recycles


@pytest.mark.parametrize("when", ["stand-in", "drain", "stop", "start"])
def test_a_guard_that_dies_in_the_midst_of_a_recycle_leaves_the_model_served_and_nothing_behind(when: str) -> None:
    world = lonely()
    run_to(world, when)
    if when == "stop":
        world.step()
    world.new_guard()
    check_settled(world)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["guard", "broker"])), min_size=1, max_size=6))
@example([(5, "guard"), (1, "broker"), (1, "guard")])
def test_whenever_guards_and_brokers_die_the_last_worker_of_a_model_has_a_stand_in(deaths: Any) -> None:
    world = lonely(start_max_s=30.0)
    for seconds, who in deaths:
        for _ in range(seconds):
            world.step()
            assert world.serving()
        if who == "guard":
            world.new_guard()
        else:
            world.new_broker()
    for _ in range(150):
        world.step()
        assert world.serving()
    assert len(world.processes) <= 2
    ages = [world.now - process.started for process in world.processes if not process.stand_in]
    assert max(ages) < 50 + 80, "no longer recycled"


def test_a_successor_that_fails_leaves_the_stand_in_at_work_until_it_is_mended() -> None:
    world = lonely()
    run_to(world, "drain")
    world.named("workers:workers-0").broken = True
    world.run(100)
    assert ["workers-1"] == world.serving()
    world.named("workers:workers-0").broken = False
    for _ in range(120):
        world.step()
        assert world.serving()
    assert "workers:workers-1" in [action.process for action in world.actions(Remove)]


def test_a_stand_in_leaves_with_the_worker_that_an_operator_stops() -> None:
    world = lonely()
    run_to(world, "start")
    process = world.named("workers:workers-0")
    process.state, process.pid, process.restarting = "STOPPED", 0, False
    world.run(10)
    assert ["workers-0"] == [each.name for each in world.processes]
    assert "STOPPED" == process.state


def test_a_worker_that_was_started_anew_while_its_stand_in_loads_is_not_drained() -> None:
    world = lonely()
    process = world.named("workers:workers-0")
    world.spawn(process)  # As supervisorctl restart does.
    process.load_s = 1.0
    world.run(40)
    assert [] == world.actions(Quiet) + world.actions(Restart)
    assert ["workers-0"] == world.serving()
    assert ["workers-0"] == [each.name for each in world.processes]


def test_a_worker_that_dies_while_its_stand_in_loads_keeps_it_until_it_is_back() -> None:
    world = lonely()
    process = world.named("workers:workers-0")
    process.state, process.pid = "EXITED", 0
    world.run(2)
    world.spawn(process)
    process.ready_at = world.now + 30
    world.run(8)
    assert ["workers-1"] == world.serving()
    world.run(25)
    assert ["workers-0"] == world.serving()
    assert 1 == len(world.processes)


def test_a_stand_in_of_another_program_stands_in_for_nobody() -> None:
    world = World(GuardSettings(max_age_s=50.0), limit_mib=3000.0)
    world.add("workers-0", op="embed", load_s=2.0)
    world.add("workers-1", op="generate", load_s=9.0)
    for _ in range(140):
        world.step()
        assert world.serving("embed")
        assert world.serving("generate")
        assert [recycle.phase for recycle in world.state.recycles.values()].count("stand-in") <= 1
    assert {"workers-0", "workers-1"} <= {action.worker for action in world.actions(Quiet)}


def test_a_stand_in_is_given_up_when_memory_gets_short_and_the_worker_stays() -> None:
    world = lonely()
    world.others_mib = 0.93 * 3000 - world.taken()
    world.step()
    world.run(2)
    assert ["workers-0"] == world.serving()
    assert ["workers-0"] == [each.name for each in world.processes if each.state == "RUNNING"]
    world.others_mib = 0.98 * 3000 - world.taken()
    world.run(10)
    assert [] == world.actions(Restart)  # It would give nothing back.


def test_a_broker_that_starts_anew_is_told_again_who_drains() -> None:
    world = lonely()
    world.named("workers:workers-0").drain_s = 25.0
    run_to(world, "drain")
    world.step()
    world.new_broker()
    world.run(2)
    assert ["workers-1"] == world.serving()
    check_settled(world)


def test_an_operator_who_drains_a_worker_in_the_midst_of_its_recycle_keeps_it() -> None:
    world = lonely()
    run_to(world, "drain")
    world.named("workers:workers-0").drained_by = "operator"
    world.run(100)
    assert [] == world.actions(Restart)
    assert 1 == len(world.said("recycle_failed"))


def test_workers_of_other_machines_are_nobody_here_though_pids_and_names_are_alike() -> None:
    world = lonely()
    for _ in range(40):
        world.now += 1
        sample = world.sample()
        stand_in = next((process.pid for process in world.processes if process.stand_in), 0)
        twin = (sample.workers or [])[0]._replace(pid=stand_in or 1, remote=True, drained_by="guard")
        sample = sample._replace(workers=[twin, *(w for w in sample.workers or () if w.pid != stand_in)])
        for action in decide(sample, world.state, world.now):
            assert not isinstance(action, Quiet | Restart), "it drains though the stand-in is not known yet"
            if isinstance(action, AddStandIn):
                world._obey(action)


def test_a_worker_started_by_hand_under_the_name_of_a_process_does_not_hide_its_jobs() -> None:
    world = lonely()
    run_to(world, "drain")
    sample = world.sample()
    twin = (sample.workers or [])[0]._replace(pid=9999, held=0, state="ready")
    actions = decide(sample._replace(workers=[twin, *(sample.workers or ())]), world.state, world.now + 1)
    assert not any(isinstance(action, Restart | Kill) for action in actions)


def test_a_budget_that_a_worker_exceeds_from_the_first_does_not_recycle_it_again_and_again() -> None:
    world = World(GuardSettings(max_footprint_bytes=150 * MIB), limit_mib=3000.0)
    for number in range(2):
        world.add(f"w-{number}")
    world.processes[1].base_mib, world.processes[1].leak_mib_s = 100, 10
    world.run(300)
    assert {"w-1"} == {action.worker for action in world.actions(Quiet)}
    assert 4 <= len(world.actions(Quiet)) <= 10


def test_stops_that_lie_long_back_do_not_delay_the_next_one() -> None:
    world = World(GuardSettings(), limit_mib=1000.0)
    world.add("w-0")
    stopped = []
    for pause_s in (12, 22, 1000, 12, 1):
        world.named("workers:w-0").footprint = 880.0
        world.others_mib = 100.0
        before = len(world.actions(Restart))
        world.run(3)
        stopped.append(len(world.actions(Restart)) > before)
        world.named("workers:w-0").footprint = 200.0
        world.run(pause_s)
    assert [True] * 5 == stopped


def test_a_worker_that_was_not_there_when_trimming_ended_is_told_when_it_is_back() -> None:
    world = World(GuardSettings(missing_s=60.0), limit_mib=1000.0)
    for number in range(2):
        world.add(f"w-{number}")
    world.others_mib = 370
    world.run(10)
    world.others_mib = 100
    world.processes[0].frozen = True  # As one that has not come to a new broker yet.
    world.run(13)
    before = world.actions(Trim).count(Trim(0))
    world.processes[0].frozen = False
    world.run(5)
    assert before + 1 == world.actions(Trim).count(Trim(0))
    assert Trim(0) == world.actions(Trim)[-1]


def test_patience_with_a_worker_does_not_count_while_nobody_tells_of_it() -> None:
    world = World(GuardSettings(missing_s=5.0), limit_mib=1000.0)
    world.add("w-0")
    world.run(2)
    world.processes[0].frozen = True
    world.run(2)
    world.broker_away_until = world.now + 20
    world.run(20)
    world.run(2)
    assert [] == world.said("replaced")
    world.run(8)
    assert 1 == len(world.said("replaced"))
