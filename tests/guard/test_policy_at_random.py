"""Whatever the machine does: one recycle of a model at a time, never its last worker, no endless pause, no flapping."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_worker.guard.actions import Action, AddStandIn, Quiet, Restart, Say, Trim
from mlx_mesh_worker.guard.ladder import STOP
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.samples import ProcessSample, Sample, Signals, WorkerSample
from mlx_mesh_worker.guard.settings import GuardSettings
from mlx_mesh_worker.guard.state import State
from tests.guard.world import MIB, World

SETTINGS = GuardSettings()
PAIRS = [("embed", "a"), ("embed", "b"), ("generate", "c")]
STATES = ["loading", "ready", "ready", "ready", "suspect", "stalled", "draining"]
PROCESS_STATES = ["RUNNING", "RUNNING", "RUNNING", "STARTING", "STOPPING", "STOPPED", "FATAL", "EXITED", "BACKOFF"]


def worker_strategy(number: int) -> st.SearchStrategy[tuple[WorkerSample, ProcessSample]]:
    return st.builds(
        lambda pid, state, pair, held, up, by, footprint, process, stand_in, restarting: (
            WorkerSample(
                f"w-{number}", pid, state, frozenset({pair}), held, 5, up, False, by if state == "draining" else "",
                footprint * MIB, {"rss_ready": 100 * MIB},
            ),
            ProcessSample(
                f"w-{number}", "workers", process, pid if process in ("RUNNING", "STARTING", "STOPPING") else 0, up,
                True, stand_in=stand_in, restarting=restarting,
            ),
        ),
        st.integers(number * 10, number * 10 + 2),
        st.sampled_from(STATES),
        st.sampled_from(PAIRS),
        st.integers(0, 2),
        st.sampled_from([1.0, 60.0, 5000.0]),
        st.sampled_from(["guard", "operator"]),
        st.integers(50, 900),
        st.sampled_from(PROCESS_STATES),
        st.booleans(),
        st.booleans(),
    )  # fmt: skip


def sample_of(pressure: float, both: tuple[Any, ...], broker: bool, supervisord: bool, signals: Signals) -> Sample:
    return Sample(
        [Limit("ram", int(pressure * 4000) * MIB, 4000 * MIB)],
        signals,
        [worker for worker, _ in both] if broker else None,
        [process for _, process in both] if supervisord else None,
        1000.0 if broker else 0.0,
    )


SIGNALS = st.builds(
    Signals,
    st.none() | st.floats(0, 100),
    st.none() | st.floats(0, 100),
    st.none() | st.integers(0, 2**34),
    st.sampled_from([None, 1, 2, 4]),
)
SAMPLES = st.builds(
    sample_of,
    st.floats(0, 1.2),
    st.tuples(*(worker_strategy(number) for number in range(1, 5))),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([True, True, True, False]),
    SIGNALS,
)
HISTORIES = st.lists(st.tuples(st.sampled_from([0.3, 1.0, 5.0, 61.0]), SAMPLES), min_size=1, max_size=25)


def peers_of(name: str, sample: Sample, busy: set[str]) -> set[tuple[str, str]]:
    """Return what stays served by ready workers when this one goes."""
    leaving = {process.pid for process in sample.processes or () if process.stand_in or process.restarting}
    return {
        pair
        for other in sample.workers or ()
        if other.name != name and other.state == "ready" and other.name not in busy and other.pid not in leaving
        for pair in other.serves
    }


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HISTORIES)
def test_no_history_of_samples_makes_it_break_its_rules(history: list[tuple[float, Sample]]) -> None:
    state = State(SETTINGS)
    now = 50.0
    paused_at = None
    for seconds, sample in history:
        now += seconds
        before = set(state.recycles)
        actions = decide(sample, state, now)
        check_begun(state, sample, actions, before)
        paused_at = now if state.paused and paused_at is None else paused_at if state.paused else None
        assert paused_at is None or now - paused_at < SETTINGS.pause_max_s
        assert not any(isinstance(action, Trim) for action in actions) or sample.workers is not None


def check_begun(state: State, sample: Sample, actions: list[Action], before: set[str]) -> None:
    going = [each for each in state.recycles.values() if each.reason in ("memory", "pause") and each.phase != "start"]
    assert len(going) <= 1, "two at once for memory"
    taken: set[tuple[str, str]] = set()
    for recycle in state.recycles.values():
        # Those that an earlier guard had begun are taken over as they are.
        assert recycle.reason == "adopted" or not recycle.serves & taken, "two recycles of one model"
        taken |= recycle.serves
    for name in state.recycles.keys() - before:
        recycle = state.recycles[name]
        if recycle.reason in ("adopted", "stop"):
            # Once on the top rung it stays there until memory is a little below its threshold.
            assert recycle.reason == "adopted" or state.rung >= STOP
            assert recycle.reason == "adopted" or state.pressure >= SETTINGS.stop_at - SETTINGS.hysteresis
            continue
        stays = peers_of(name, sample, set(state.recycles) - {name})
        stand_in = any(isinstance(action, AddStandIn) for action in actions)
        assert stand_in or recycle.serves <= stays, "the last ready worker"


FAULTS = ["crash", "freeze", "stall", "broker", "supervisord", "others_up", "others_down", "leak", "heal", "nothing"]
PLANS = st.tuples(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 2),
    st.floats(900, 3000),
    st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 5), st.integers(5, 60)), max_size=12),
)

FALLS_WITHIN_THE_TOP_RUNG = [
    ("others_up", 0, 5),
    ("leak", 2, 45),
    ("crash", 1, 27),
    ("crash", 0, 51),
    ("broker", 0, 18),
    ("others_up", 0, 5),
    ("crash", 1, 5),
]


def disturb(world: World, fault: str, number: int) -> None:
    process = world.processes[number % len(world.processes)]
    if fault == "crash" and process.state == "RUNNING":
        process.gone_at, process.restarting = world.now, True
    elif fault in ("freeze", "stall") and process.state == "RUNNING":
        process.frozen, process.stalled = fault == "freeze", True
    elif fault == "leak":
        process.leak_mib_s = 5.0 * (number + 1)
    elif fault == "heal":
        for each in world.processes:
            each.leak_mib_s = 0.0
    elif fault == "broker":
        world.broker_away_until = world.now + 15
    elif fault == "supervisord":
        world.supervisord_away_until = world.now + 15
    else:
        world.others_mib = {"others_up": world.limit_mib * 0.6, "others_down": 100.0}.get(fault, world.others_mib)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS)
@example((1, 1, 1, 900.0, [("leak", 3, 60)] * 6))
@example((0, 1, 2, 2419.0, FALLS_WITHIN_THE_TOP_RUNG))
def test_no_life_of_a_machine_makes_it_break_its_rules(plan: Any) -> None:
    seed, workers, groups, limit, faults = plan
    world = World(limit_mib=limit, chance=random.Random(seed))
    for group in range(groups):
        for number in range(workers):
            world.add(f"g{group}-{number}", f"g{group}")
    longest = paused = 0
    for fault, number, seconds in faults:
        disturb(world, fault, number)
        for _ in range(seconds):
            before = set(world.state.recycles)
            actions = world.step()
            check_begun(world.state, world.done[-1][2] if actions else world.sample(), actions, before)
            paused = paused + 1 if world.state.paused else 0
            longest = max(longest, paused)
    assert longest <= SETTINGS.pause_max_s
    hours = (world.now - 1000.0) / 3600
    acted = [action for _, action, _ in world.done if isinstance(action, Quiet | Restart | AddStandIn)]
    # A worker is not recycled before it is 30 s old, and stopped at once at growing distances; each takes 3 actions.
    assert len(acted) <= 3 * workers * groups * (10 + hours * 3600 / SETTINGS.cooldown_s)
    told = [action for _, action, _ in world.done if isinstance(action, Trim)]
    assert len(told) <= 10 + 2 * hours * 3600 / 5
    world.supervisord_away_until = world.broker_away_until = 0.0
    disturb(world, "heal", 0)
    world.run(400)
    assert not world.state.recycles, "a recycle that never ends"
    assert not [process for process in world.processes if process.stand_in]
    assert {process.state for process in world.processes} == {"RUNNING"}
    assert not any(isinstance(a, Say) and a.event == "recycle_failed" for _, a, _ in world.done[-3:])
