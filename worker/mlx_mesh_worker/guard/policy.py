"""What the guard does about what it sees. Pure: no clock, no process, no socket; all that is known is in the sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_worker.guard import ladder, recycling, repair, steps
from mlx_mesh_worker.guard.growth import Growth

if TYPE_CHECKING:
    from mlx_mesh_worker.guard.actions import Action
    from mlx_mesh_worker.guard.samples import Sample
    from mlx_mesh_worker.guard.state import State


def decide(sample: Sample, state: State, now: float) -> list[Action]:
    """Return what is to be done, in order, and bring the state up to date.

    Args:
        sample: what is known now.
        state: what is remembered; ``state.paused`` is what the broker is to be told with the next report.
        now: seconds of a monotonic clock, as in every later call.
    """
    if sample.stopping:
        state.paused = ""
        return []
    _take_note(sample, state, now)
    actions = ladder.climb(sample, state, now)
    actions += repair.replace_stuck(sample, state, now)
    actions += repair.retry_given_up(sample, state, now)
    actions += steps.advance(sample, state, now)
    actions += recycling.begin(sample, state, now)
    actions += ladder.trim(sample, state, now)
    actions += ladder.pause(sample, state, now, helpless=recycling.helpless(sample, state, now))
    return actions


def _take_note(sample: Sample, state: State, now: float) -> None:
    """Remember which workers there are and what they take; forget those that are gone."""
    if sample.workers is None:
        return
    here = {worker.pid: worker for worker in sample.workers if not worker.remote}
    for pid, worker in here.items():
        if worker.footprint is not None and worker.state != "loading":
            state.growths.setdefault(pid, Growth()).add(now, worker.footprint)
    alive = set(here)
    if sample.processes is not None:
        alive |= {process.pid for process in sample.processes}
        state.known = (state.known | here.keys()) & alive
        state.shrunk &= alive
    for table in (state.growths, state.over_budget):
        for pid in table.keys() - alive:
            del table[pid]
    names = {worker.name for worker in sample.workers}
    for name in [name for name, after in state.not_before.items() if after <= now and name not in names]:
        del state.not_before[name]
        state.stops.pop(name, None)
