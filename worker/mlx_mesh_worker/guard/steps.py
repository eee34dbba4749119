"""The steps of a recycle, from the first word to the worker until its successor is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_mesh_worker.guard.actions import Action, Quiet, Remove, Restart
from mlx_mesh_worker.guard.repair import kill
from mlx_mesh_worker.guard.state import Recycle, by_pid, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_mesh_worker.guard.samples import ProcessSample, Sample, WorkerSample
    from mlx_mesh_worker.guard.state import State

SETTLE_S: Final = 3.0
"""How long after a worker has gone the figures are given to show it."""

FAILED_AGAIN_S: Final = 60.0
"""How long a worker is left alone after its recycle could not be done."""

GONE: Final = frozenset({"FATAL", "EXITED", "STOPPED", "UNKNOWN"})


def advance(sample: Sample, state: State, now: float) -> list[Action]:
    """Take each recycle one step on, adopt those of an earlier guard, remove stand-ins that nobody needs."""
    if sample.processes is None or sample.workers is None:
        return []
    actions = list(_adopt(sample, state, now))
    for recycle in list(state.recycles.values()):
        actions += _step(recycle, sample, state, now)
    needed = {recycle.stand_in for recycle in state.recycles.values()}
    waiting = {recycle.group for recycle in state.recycles.values() if recycle.phase == "stand-in"}
    for process in sample.processes:
        left = process.stand_in and process.full_name not in needed and process.group not in waiting
        if left and process.state != "STOPPING":
            actions.append(Remove(process.full_name))
    return actions


def _adopt(sample: Sample, state: State, now: float) -> Iterator[Action]:
    processes = by_pid(sample.processes or ())
    for worker in sample.workers or ():
        process = processes.get(worker.pid)
        if process is None or worker.drained_by != "guard" or worker.name in state.recycles or not process.worker:
            continue
        state.recycles[worker.name] = Recycle(
            worker.name, process.full_name, process.group, worker.pid, worker.serves, "adopted", "drain", now, now
        )
        text = f"{worker.name} was being recycled when this guard started; it goes on"
        yield say(state, now, "info", "recycle", text, worker=worker.name, reason="adopted")


def _step(recycle: Recycle, sample: Sample, state: State, now: float) -> list[Action]:
    process = next((p for p in sample.processes or () if p.full_name == recycle.process), None)
    worker = next((w for w in sample.workers or () if w.name == recycle.name and not w.remote), None)
    if process is None:
        return _end(recycle, state, now, "its process is not there any more")
    if recycle.phase == "stand-in":
        return _await_stand_in(recycle, sample, state, now)
    if recycle.phase == "drain":
        return _await_drained(recycle, process, worker, state, now)
    if recycle.phase == "stop":
        return _await_gone(recycle, process, state, now)
    return _await_ready(recycle, process, worker, state, now)


def _await_stand_in(recycle: Recycle, sample: Sample, state: State, now: float) -> list[Action]:
    ready = {worker.pid for worker in sample.workers or () if worker.state == "ready"}
    added = [p for p in sample.processes or () if p.stand_in and p.group == recycle.group]
    for process in added:
        if process.pid in ready:
            recycle.stand_in = process.full_name
            recycle.phase, recycle.since = "drain", now
            return [Quiet(recycle.name)]
    lost = all(process.state in GONE for process in added) and now - recycle.since >= SETTLE_S
    if lost or now - recycle.since >= state.settings.start_max_s:
        why = "; ".join(process.reason for process in added if process.reason) or "it was not ready in time"
        return _end(recycle, state, now, f"its stand-in did not start: {why}")
    return []


def _await_drained(
    recycle: Recycle, process: ProcessSample, worker: WorkerSample | None, state: State, now: float
) -> list[Action]:
    held = worker.held if worker is not None and worker.pid == recycle.pid else 0
    late = now - recycle.since >= state.settings.drain_s
    if process.pid == recycle.pid and held and not late:
        return []
    recycle.phase, recycle.since = "stop", now
    if process.pid != recycle.pid:
        return []  # It died meanwhile, or somebody was faster.
    return [Restart(recycle.process, held > 0)]


def _await_gone(recycle: Recycle, process: ProcessSample, state: State, now: float) -> list[Action]:
    if process.pid == recycle.pid:
        waited = now - max(recycle.since, recycle.killed)
        if waited < state.settings.kill_s:  # It holds nothing, or was told to hurry.
            return []
        recycle.killed = now
        return kill(state, now, recycle.name, recycle.process, recycle.pid)
    state.settled_after = now + SETTLE_S
    if process.state in GONE and not process.restarting:
        return _end(recycle, state, now, f"its process is {process.state}: {process.reason or 'stopped by somebody'}")
    recycle.phase, recycle.since = "start", now
    return []


def _await_ready(
    recycle: Recycle, process: ProcessSample, worker: WorkerSample | None, state: State, now: float
) -> list[Action]:
    if worker is not None and worker.pid == process.pid != recycle.pid and worker.state == "ready":
        del state.recycles[recycle.name]
        seconds = round(now - recycle.begun, 1)
        text = f"{recycle.name} is recycled after {seconds} s"
        fields = {"worker": recycle.name, "reason": recycle.reason, "seconds": seconds, "pid": process.pid}
        return [say(state, now, "info", "recycled", text, **fields)]
    if process.state in GONE and not process.restarting:
        return _end(recycle, state, now, f"its process is {process.state}: {process.reason or 'stopped by somebody'}")
    if now - recycle.since >= state.settings.start_max_s:
        return _end(recycle, state, now, f"it was not ready within {state.settings.start_max_s:g} s")
    return []


def _end(recycle: Recycle, state: State, now: float, why: str) -> list[Action]:
    del state.recycles[recycle.name]
    state.counts["recycle failures"] += 1
    state.not_before[recycle.name] = max(state.not_before.get(recycle.name, 0.0), now + FAILED_AGAIN_S)
    text = f"the recycle of {recycle.name} ended in phase {recycle.phase}: {why}"
    fields = {"worker": recycle.name, "reason": recycle.reason, "phase": recycle.phase, "why": why}
    return [say(state, now, "error", "recycle_failed", text, **fields)]
