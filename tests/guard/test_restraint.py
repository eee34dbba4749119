"""What the guard does not do, or not yet: each of its conditions seen to hold it back."""

from __future__ import annotations

from mlx_mesh_worker.guard.actions import Quiet, Remove
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.settings import GuardSettings
from tests.guard.world import MIB, World


def grown(*groups: str, each: int = 2, **figures: float) -> World:
    """Return a machine of 2,000 MiB whose workers, so many in each group, have grown by 200 MiB each."""
    world = World(GuardSettings(), limit_mib=2000.0, **figures)
    for group in groups:
        for number in range(each):
            world.add(f"{group}-{number}", group).footprint = 400
    world.run(40)
    return world


def press(world: World, share: float) -> None:
    world.others_mib = share * world.limit_mib - world.taken()


def quieted(world: World) -> list[str]:
    return [action.worker for action in world.actions(Quiet)]


def test_one_worker_at_a_time_goes_for_memory_and_the_figures_may_settle_before_the_next() -> None:
    world = grown("a", "b")
    for process in world.processes:
        process.drain_s = 4.0
    gone_at, free = 0.0, 0
    for _ in range(60):
        press(world, 0.93)
        before = len(quieted(world))
        freeing = [recycle for recycle in world.state.recycles.values() if recycle.phase in ("drain", "stop")]
        world.step()
        begun = len(quieted(world)) > before
        assert not (freeing and begun)
        free += begun and gone_at > 0
        assert not begun or world.now - gone_at >= 3.0
        if freeing and not [each for each in world.state.recycles.values() if each.phase in ("drain", "stop")]:
            gone_at = world.now
    assert free >= 1


def test_standard_requests_go_on_while_a_recycle_is_under_way() -> None:
    world = grown("a")
    for process in world.processes:
        process.drain_s = 20.0
    press(world, 0.93)
    world.run(15)
    assert 1 == len(quieted(world))
    assert "bulk" == world.state.paused


def test_a_worker_stays_while_another_of_its_group_starts() -> None:
    world = grown("a", each=3)
    process = world.processes[2]
    world.spawn(process)
    process.ready_at = world.now + 20
    press(world, 0.93)
    world.run(15)
    assert [] == quieted(world)
    world.others_mib = 100.0
    world.run(10)
    press(world, 0.93)
    world.run(5)
    assert 1 == len(quieted(world))


def test_neither_a_stand_in_nor_one_that_leaves_counts_as_a_peer() -> None:
    for how in ("stand_in", "restarting"):
        world = grown("a")
        setattr(world.processes[1], how, True)
        world.named("a:a-1").group = "b" if how == "restarting" else "a"  # Beside its group, which waits anyway.
        press(world, 0.93)
        sample = world.sample()
        workers = [worker._replace(serves=frozenset({("op", "a")})) for worker in sample.workers or ()]
        for second in range(5):
            actions = decide(sample._replace(workers=workers), world.state, world.now + second)
            assert not [action for action in actions if isinstance(action, Quiet)], how


def test_a_budget_that_is_exceeded_for_a_moment_is_kept() -> None:
    world = World(GuardSettings(max_footprint_bytes=300 * MIB), limit_mib=4000.0)
    for number in range(2):
        world.add(f"w-{number}")
    world.run(40)
    for _ in range(5):
        world.processes[0].footprint = 350
        world.run(4)
        world.processes[0].footprint = 250
        world.run(2)
    assert [] == world.said("recycle")


def test_a_stand_in_that_supervisord_adds_late_is_waited_for() -> None:
    world = World(GuardSettings(max_age_s=50.0), limit_mib=3000.0)
    world.add("workers-0")
    world.run(51)
    sample = world.sample()
    processes = [process for process in sample.processes or () if not process.stand_in]
    for second in (1, 2):
        decide(sample._replace(processes=processes), world.state, world.now + second)
    assert ["stand-in"] == [recycle.phase for recycle in world.state.recycles.values()]
    decide(sample._replace(processes=processes), world.state, world.now + 3)
    assert {} == world.state.recycles


def test_a_stand_in_leaves_when_another_serves_though_one_of_the_group_is_away() -> None:
    world = grown("a")
    world.processes[0].broken = True
    world.add("a-2", "a").stand_in = True
    world.run(3)
    assert ["a:a-2"] == [action.process for action in world.actions(Remove)][:1]


def test_a_successor_that_loads_for_too_long_ends_the_recycle_and_its_stand_in_works_on() -> None:
    world = World(GuardSettings(max_age_s=50.0, start_max_s=20.0), limit_mib=3000.0)
    process = world.add("workers-0", load_s=3.0)
    world.run(53)
    process.load_s = 500.0
    for _ in range(60):
        world.step()
        assert world.serving()
    assert "not ready within 20 s" in str(world.said("recycle_failed")[0]["why"])
