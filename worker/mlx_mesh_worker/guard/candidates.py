"""Workers that may be recycled: what that would give back, and whether anybody would notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_mesh_worker.guard.ladder import CALM
from mlx_mesh_worker.guard.state import MIB, by_pid

if TYPE_CHECKING:
    from mlx_mesh_worker.guard.samples import ProcessSample, Sample, WorkerSample
    from mlx_mesh_worker.guard.state import State

GAIN_LEAST: Final = 16 * MIB
GAIN_SHARE: Final = 0.02
"""What a recycle must promise to give back, in bytes and as a share of the tightest limit: less is not worth it."""


class Candidate:
    """A worker of this machine with its process."""

    def __init__(self, worker: WorkerSample, process: ProcessSample, state: State, now: float) -> None:
        self.worker = worker
        self.process = process
        self.footprint = worker.footprint or 0
        self.grown = self.footprint - state.baseline(worker)
        # Key-value caches of running texts would only move with them.
        self.gain = self.grown - worker.memory.get("kv", 0)
        budget = state.settings.max_footprint_bytes
        growth = state.growths.get(worker.pid)
        grows = growth is not None and growth.suspicious(now)
        self.suspicious = grows or bool(budget and self.footprint > budget)

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The best candidate has the highest: over its budget or leaking, then whoever gives back most."""
        return self.suspicious, self.gain, self.footprint


def candidates(sample: Sample, state: State, now: float) -> list[Candidate]:
    """Return all workers that supervisord runs here and the broker knows, the best candidate first."""
    processes = by_pid(sample.processes or ())
    found = [
        Candidate(worker, processes[worker.pid], state, now)
        for worker in sample.workers or ()
        if not worker.remote and worker.pid in processes and processes[worker.pid].worker
    ]
    return sorted(found, key=lambda each: each.rank, reverse=True)


def worth(each: Candidate, sample: Sample) -> bool:
    """Whether a recycle would give back enough."""
    return each.gain >= least_gain(sample)


def least_gain(sample: Sample) -> float:
    """Return the bytes that matter beside the tightest limit."""
    tightest = sample.tightest
    return max(GAIN_LEAST, GAIN_SHARE * tightest.limit if tightest is not None else 0.0)


def allowed(each: Candidate, sample: Sample, state: State, now: float) -> bool:
    """Whether a worker may be recycled now without anybody noticing."""
    worker, process = each.worker, each.process
    if worker.state != "ready" or process.stand_in or not alone(each, state):
        return False
    if now < state.not_before.get(worker.name, 0.0):
        return False
    if _in_transition(process.group, sample, state):
        return False
    return _has_peers(worker, sample, state) or may_surge(each, sample, state)


def alone(each: Candidate, state: State) -> bool:
    """Whether nothing that the worker serves is being recycled already, and it is not about to start anew anyway."""
    serves = each.worker.serves
    return not each.process.restarting and not any(other.serves & serves for other in state.recycles.values())


def _in_transition(group: str, sample: Sample, state: State) -> bool:
    """Whether a worker of the group is just stopping or starting, whoever wanted that."""
    workers = {worker.pid: worker.state for worker in sample.workers or () if not worker.remote}
    for process in sample.processes or ():
        if process.group != group or not process.worker:
            continue
        if process.restarting or process.state == "STOPPING":
            return True
        young = process.running_s < state.settings.start_max_s
        if process.state in ("STARTING", "RUNNING") and young and workers.get(process.pid, "loading") == "loading":
            return True
    return False


def _has_peers(worker: WorkerSample, sample: Sample, state: State) -> bool:
    """Whether all that the worker serves is served by others that are ready and stay."""
    leaving = {process.pid for process in sample.processes or () if process.stand_in or process.restarting}
    staying: set[tuple[str, str]] = set()
    for other in sample.workers or ():
        here = not other.remote and (other.pid in leaving or other.pid == worker.pid)
        if other.state == "ready" and not here and other.name not in state.recycles:
            staying |= other.serves
    return worker.serves <= staying


def may_surge(each: Candidate, sample: Sample, state: State) -> bool:
    """Whether memory allows one worker more for a while."""
    if not state.settings.surge or state.rung > CALM:
        return False
    most = state.settings.pause_at
    return all(limit.used + each.footprint <= most * limit.limit for limit in sample.limits)
