"""How long the guard waits before it acts, and how long until it acts again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from mlx_mesh_worker.guard.actions import Action, AddStandIn, Dump, Quiet, Restart, Start, Trim
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.settings import GuardSettings
from tests.guard.world import MIB, World


def pair(footprint: float = 400.0, **how: Any) -> World:
    """Return a machine of 2,000 MiB with two workers that took 200 MiB at first, for 40 s by now."""
    world = World(GuardSettings(**how), limit_mib=2000.0)
    for number in range(2):
        world.add(f"w-{number}").footprint = footprint
    world.run(40)
    return world


def press(world: World, share: float) -> None:
    world.others_mib = share * world.limit_mib - world.taken()


def begun(world: World, kind: type[Action], since: float) -> list[float]:
    """Return after how many seconds each action of a kind was taken."""
    return [at - since for at, action, _ in world.done if isinstance(action, kind) and at > since]


def test_one_that_grew_once_goes_when_pressure_has_lasted_and_one_that_leaks_at_once() -> None:
    for leak, seconds in ((0.0, 3.0), (8.0, 1.0)):
        world = pair(200.0 if leak else 400.0)
        world.processes[0].leak_mib_s = leak
        world.run(35)
        press(world, 0.925)
        since = world.now
        world.run(5)
        assert [seconds] == begun(world, Quiet, since)[:1]


def test_workers_that_did_not_grow_or_whose_growth_is_of_running_texts_stay() -> None:
    world = pair(200.0)
    press(world, 0.93)
    world.run(20)
    assert [] == world.actions(Quiet)
    world = pair(400.0)
    press(world, 0.93)
    for second in range(20):
        sample = world.sample()
        workers = [worker._replace(memory={**worker.memory, "kv": 190 * MIB}) for worker in sample.workers or ()]
        actions = decide(sample._replace(workers=workers), world.state, world.now + second)
        assert not [action for action in actions if isinstance(action, Quiet | Restart)]


def test_a_worker_that_fills_the_memory_at_once_is_stopped_at_growing_distances() -> None:
    world = World(GuardSettings(), limit_mib=1000.0)
    world.add("w-0", leak_mib_s=400.0, load_s=0.5)
    world.run(150)
    pauses = [after - before for before, after in pairwise(begun(world, Restart, 0.0))]
    assert pauses[0] >= 10
    assert pauses[1] >= 20
    assert pauses[2] >= 40


def test_the_only_one_left_is_not_stopped_while_the_one_that_was_stopped_loads() -> None:
    world = pair(800.0)
    for process in world.processes:
        process.load_s = 15.0
    press(world, 0.98)
    for _ in range(14):
        world.step()
        press(world, 0.98)
    assert 1 == len(world.actions(Restart))


def test_no_stand_in_is_added_while_memory_is_anything_but_plenty() -> None:
    world = World(GuardSettings(max_age_s=50.0), limit_mib=20_000.0)
    for number in range(2):
        world.add(f"w-{number}")
    press(world, 0.76)
    world.run(60)
    assert [] == world.actions(AddStandIn)
    assert [] != world.actions(Quiet)


def test_a_worker_that_is_being_stopped_is_not_missing() -> None:
    world = pair()
    world.processes[0].state = "STOPPING"
    world.run(30)
    assert [] == world.actions(Dump)


def test_one_that_never_came_to_the_broker_is_replaced_when_it_should_have_been_ready() -> None:
    world = World(GuardSettings(start_max_s=60.0), limit_mib=2000.0)
    world.add("w-0").frozen = True
    world.run(60)
    assert [] == world.actions(Dump)
    world.run(10)
    assert 1 == len(world.actions(Dump))


def test_a_worker_that_is_stuck_again_and_again_is_replaced_twice_a_minute_at_most() -> None:
    world = pair()
    for _ in range(200):
        process = world.processes[0]
        process.stalled = process.state == "RUNNING"
        world.step()
    pauses = [after - before for before, after in pairwise(begun(world, Dump, 0.0))]
    assert pauses
    assert min(pauses) >= 30


def test_a_process_that_runs_for_a_moment_only_does_not_begin_its_pauses_anew() -> None:
    world = pair(retry_s=10.0, retry_max_s=300.0)
    process = world.processes[0]
    for _ in range(900):
        process.broken = process.state == "RUNNING" and world.now - process.started > 20
        world.step()
    starts = [after - before for before, after in pairwise(begun(world, Start, 0.0))]
    assert starts[-1] > 200


def test_nothing_is_started_again_where_that_is_switched_off_nor_ever_a_stand_in() -> None:
    world = pair(retry_s=0.0)
    world.processes[0].broken = True
    world.run(100)
    assert [] == world.actions(Start)
    world = pair()
    world.processes[0].stand_in, world.processes[0].state, world.processes[0].pid = True, "FATAL", 0
    world.step()
    assert {} == world.state.given_up


def test_one_that_is_about_to_start_anew_has_not_been_given_up() -> None:
    world = pair()
    process = world.processes[0]
    process.state, process.pid, process.restarting = "EXITED", 0, True
    world.step()
    assert {} == world.state.given_up


def test_trimming_ends_when_memory_has_been_plenty_for_a_while() -> None:
    world = pair()
    press(world, 0.8)
    world.run(3)
    world.others_mib = 100.0
    since = world.now
    world.run(20)
    assert [11.0] == begun(world, Trim, since)
