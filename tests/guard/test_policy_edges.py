"""What the guard seldom sees: processes of other kinds, a peer that is back, and what somebody else did meanwhile."""

from __future__ import annotations

import pytest

from mlx_mesh_worker.guard.actions import Dump, Quiet, Restart, Start
from mlx_mesh_worker.guard.backoff import FIRST_S, LONGEST_S, Backoff
from mlx_mesh_worker.guard.growth import Growth
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.reasons import reason_of
from mlx_mesh_worker.guard.samples import ProcessSample
from mlx_mesh_worker.guard.settings import GuardSettings
from tests.guard.world import MIB, Process, World


def pair(**how: float) -> World:
    """Return a machine with two workers that have run for some time."""
    world = World(GuardSettings(**how), limit_mib=4000.0)  # type: ignore[arg-type]
    for number in range(2):
        world.add(f"w-{number}")
    world.run(60)
    return world


def test_a_peer_is_asked_after_pauses_that_double_to_ten_seconds_and_at_once_where_there_is_hope() -> None:
    peer = Backoff("broker")
    assert peer.may_try(0.0)
    pauses = []
    for _ in range(7):
        peer.failed(100.0, "silent")
        pauses.append(next(s / 4 for s in range(100) if peer.may_try(100.0 + s / 4)))
    assert [FIRST_S, 1.0, 2.0, 4.0, 8.0, LONGEST_S, LONGEST_S] == pauses
    assert 7 == peer.failures
    peer.reset()
    assert peer.may_try(100.0)
    peer.worked()
    peer.failed(200.0, "silent")
    assert not peer.may_try(200.0)
    assert peer.may_try(200.0 + FIRST_S)


def test_a_peer_that_falls_silent_and_is_back_is_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlx_mesh")
    peer = Backoff("broker")
    peer.worked()
    for _ in range(3):
        peer.failed(1.0, "silent")
    for _ in range(3):
        peer.worked()
    assert ["peer_away", "peer_back"] == [record.message for record in caplog.records]


def test_growth_is_told_in_bytes_per_second_from_the_first_seconds_on() -> None:
    growth = Growth()
    for second in range(400):
        growth.add(float(second), 200 * MIB + second * MIB)
        if second == 60:
            assert 0.5 * MIB < growth.slope < 1.5 * MIB
    assert 0.5 * MIB < growth.slope < 1.5 * MIB
    assert growth.leaking(399.0)
    assert 200 * MIB <= growth.baseline < 300 * MIB


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ('{"level": "info", "event": "joined"}', "it ended, and its log does not say why"),
        ('{"level": "error", "event": "engine_broken", "reason": "no"}\n{"level": "info"}', "engine_broken: no"),
        ('{"level": "error", "event": "broken"}\n["error"]\n{"level', "broken"),
    ],
)
def test_of_a_log_in_json_only_errors_are_reasons(tail: str, reason: str) -> None:
    assert reason == reason_of(tail, 0, "")


def test_the_exit_status_comes_before_what_the_log_says_and_supervisord_is_asked_last() -> None:
    assert "exit status 2: ValueError: no" == reason_of("ValueError: no", 2, "spawn")
    assert "exit status 2" == reason_of("", 2, "spawn")
    assert "spawn" == reason_of("", 0, "spawn")


def test_processes_of_other_kinds_and_groups_hold_up_nothing_and_one_of_the_group_that_stops_does() -> None:
    world = pair()
    sample = world.sample()
    others = [
        ProcessSample("helper", "workers", "STARTING", 7, 1.0, False),
        ProcessSample("x-0", "others", "STARTING", 8, 1.0, True),
    ]
    leaky = [worker._replace(footprint=1600 * MIB) for worker in sample.workers or ()]
    limits = [sample.limits[0]._replace(used=int(0.93 * sample.limits[0].limit))]
    crowded = sample._replace(processes=[*others, *(sample.processes or ())], workers=leaky, limits=limits)
    leaving = ProcessSample("w-9", "workers", "STOPPING", 9, 100.0, True)
    busy = crowded._replace(processes=[*(crowded.processes or ()), leaving])
    assert not [a for s in range(10) for a in decide(busy, world.state, world.now + s) if isinstance(a, Quiet)]
    assert [a for s in range(10, 20) for a in decide(crowded, world.state, world.now + s) if isinstance(a, Quiet)]


def test_what_is_known_of_workers_outlives_that_supervisord_does_not_answer() -> None:
    world = pair()
    world.supervisord_away_until = world.now + 5
    world.run(3)
    assert {process.pid for process in world.processes} == set(world.state.growths)


def test_a_stuck_worker_that_is_removed_is_forgotten() -> None:
    world = pair()
    world.processes[1].stalled = True
    world.run(1)
    assert ["workers:w-1"] == list(world.state.stuck)
    del world.processes[1]
    world.run(1)
    assert {} == world.state.stuck


def test_a_process_that_was_given_up_is_forgotten_once_it_is_removed_or_stopped_by_an_operator() -> None:
    for gone in (True, False):
        world = pair()
        given_up = world.processes[1]
        given_up.state, given_up.pid = "FATAL", 0
        world.run(1)
        assert ["workers:w-1"] == list(world.state.given_up)
        if gone:
            world.processes.remove(given_up)
        else:
            given_up.state = "STOPPED"
        world.run(100)
        assert {} == world.state.given_up
        assert [] == world.actions(Start)


def test_without_supervisord_nothing_that_was_given_up_is_forgotten() -> None:
    world = pair()
    world.processes[1].state, world.processes[1].pid = "FATAL", 0
    world.run(1)
    world.supervisord_away_until = world.now + 100
    world.run(20)
    assert ["workers:w-1"] == list(world.state.given_up)
    assert [] == world.actions(Start)


def test_a_stuck_worker_that_leaves_by_itself_is_not_asked_to() -> None:
    world = pair()
    stuck = world.processes[1]
    stuck.stalled = True
    while not world.state.stuck or next(iter(world.state.stuck.values())).dumped is None:
        world.step()
    world.spawn(stuck)
    world.run(1)
    assert {} == world.state.stuck
    assert [] == world.actions(Restart)


def test_a_stuck_worker_has_a_second_to_write_its_stacks() -> None:
    world = pair()
    world.processes[1].stalled = True
    while not world.actions(Dump):
        world.step()
    sample = world.sample()
    assert [] == decide(sample, world.state, world.now + 0.5)
    assert [Restart("workers:w-1", True)] == decide(sample, world.state, world.now + 1.0)


def aged(**how: float) -> World:
    """Return a machine on which a worker is just being drained since it is old."""
    world = pair(max_age_s=70.0, surge=False, **how)
    while not world.actions(Quiet):
        world.step()
    return world


def recycled(world: World) -> Process:
    (name,) = world.state.recycles
    return next(process for process in world.processes if process.name == name)


def test_a_recycle_ends_when_its_process_is_taken_away() -> None:
    world = aged()
    mine = recycled(world)
    world.processes.remove(mine)
    world.run(1)
    assert mine.name not in world.state.recycles


def test_a_worker_that_serves_again_and_is_the_last_keeps_serving() -> None:
    world = aged(drain_s=10.0)
    mine = recycled(world)
    (other,) = [process for process in world.processes if process is not mine]
    world.broker_away_until = world.now  # it is back at once, and knows of no drain
    world.new_broker()
    other.state, other.pid, other.footprint = "STOPPED", 0, 0.0
    world.run(9)
    assert [mine.name] == list(world.state.recycles)
    assert [mine.name] == world.serving()
    world.run(3)
    assert mine.name not in world.state.recycles
    assert [] == [action for action in world.actions(Restart) if action.process == mine.full_name]


def test_when_memory_is_at_its_end_those_that_drain_leave_at_once_and_those_that_have_gone_are_left_alone() -> None:
    world = aged()
    mine = recycled(world)
    mine.drained_at = world.now + 100.0
    world.others_mib = world.limit_mib
    world.run(1)
    assert [Restart(mine.full_name, True)] == world.actions(Restart)
    mine.gone_at = None  # it takes its time
    world.run(1)
    assert [Restart(mine.full_name, True)] == world.actions(Restart)


def test_a_worker_that_is_never_heard_to_drain_is_stopped_when_its_time_is_over() -> None:
    world = aged(drain_s=10.0)
    mine = recycled(world)
    for _ in range(12):
        mine.drained_at, mine.drained_by = None, ""
        world.run(1)
    assert [Restart(mine.full_name, True)] == world.actions(Restart)[:1]
