"""The steps of a recycle, from the first word to the worker until its successor is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_mesh_worker.guard.actions import Action, Quiet, Remove, Restart
from mlx_mesh_worker.guard.ladder import RECYCLE
from mlx_mesh_worker.guard.repair import kill
from mlx_mesh_worker.guard.samples import ready, worker_of
from mlx_mesh_worker.guard.state import Recycle, by_pid, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_mesh_worker.guard.samples import ProcessSample, Sample
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
    return actions + [Remove(process.full_name) for process in _left_over(sample, state)]


def _left_over(sample: Sample, state: State) -> Iterator[ProcessSample]:
    needed = {recycle.stand_in for recycle in state.recycles.values()}
    waiting = {recycle.group for recycle in state.recycles.values() if recycle.phase == "stand-in"}
    for process in sample.processes or ():
        spare = process.full_name not in needed and process.group not in waiting
        if process.stand_in and spare and process.state != "STOPPING" and not _irreplaceable(process, sample):
            yield process


def _irreplaceable(stand_in: ProcessSample, sample: Sample) -> bool:
    """Whether it alone serves what it serves, while a worker of its group is on its way back.

    Its recycle may have failed, or belong to an earlier guard, which took its memory of it along.
    """
    processes = sample.processes or ()
    temporary = {process.pid for process in processes if process.stand_in}
    here = {worker.pid: worker for worker in ready(sample) if not worker.remote}
    if stand_in.pid not in here:
        return False
    staying = (worker.serves for worker in ready(sample) if worker.remote or worker.pid not in temporary)
    if here[stand_in.pid].serves <= frozenset().union(*staying):
        return False
    others = (p for p in processes if p.group == stand_in.group and p.worker and not p.stand_in and p.pid not in here)
    # What an operator stops is not on its way back.
    return any(p.restarting or p.state not in ("STOPPED", "STOPPING") for p in others)


def _adopt(sample: Sample, state: State, now: float) -> Iterator[Action]:
    processes = by_pid(sample.processes or ())
    for worker in sample.workers or ():
        process = processes.get(worker.pid)
        ours = process is not None and process.worker and not worker.remote
        if process is None or not ours or worker.drained_by != "guard" or worker.name in state.recycles:
            continue
        state.recycles[worker.name] = Recycle(
            worker.name, process.full_name, process.group, worker.pid, worker.serves, "adopted", "drain", now, now
        )
        fit = _fit(state.recycles[worker.name], sample, state)
        state.recycles[worker.name].stand_in = fit[0].full_name if fit else ""
        text = f"{worker.name} was being recycled when this guard started; it goes on"
        yield say(state, now, "info", "recycle", text, worker=worker.name, reason="adopted")


def _step(recycle: Recycle, sample: Sample, state: State, now: float) -> list[Action]:
    process = next((p for p in sample.processes or () if p.full_name == recycle.process), None)
    if process is None:
        return _end(recycle, state, now, "its process is not there any more")
    if recycle.phase == "stand-in":
        return _await_stand_in(recycle, process, sample, state, now)
    if recycle.phase == "drain":
        return _await_drained(recycle, process, sample, state, now)
    if recycle.phase == "stop":
        return _await_gone(recycle, process, state, now)
    return _await_ready(recycle, process, sample, state, now)


def _await_stand_in(recycle: Recycle, process: ProcessSample, sample: Sample, state: State, now: float) -> list[Action]:
    added = [p for p in sample.processes or () if p.stand_in and p.group == recycle.group]
    if process.pid != recycle.pid:  # It died, or somebody was faster: its successor is not to be drained.
        recycle.stand_in = next((each.full_name for each in added if each.state not in GONE), "")
        recycle.phase, recycle.since = "stop", now
        return []
    if state.rung >= RECYCLE:
        text = "memory is short, and a stand-in takes more of it"
        return _end(recycle, state, now, text, again_s=0.0)  # It may have to go at once.
    if fit := _fit(recycle, sample, state):
        recycle.stand_in = fit[0].full_name
        recycle.phase, recycle.since = "drain", now
        return [Quiet(recycle.name, recycle.pid)]
    lost = all(each.state in GONE for each in added) and now - recycle.since >= SETTLE_S
    if lost or now - recycle.since >= state.settings.start_max_s:
        otherwise = "it was not ready in time" if added else "supervisord did not add one"
        why = "; ".join(each.reason for each in added if each.reason) or otherwise
        return _end(recycle, state, now, f"its stand-in did not start: {why}")
    return []


def _fit(recycle: Recycle, sample: Sample, state: State) -> list[ProcessSample]:
    """Return the stand-ins that can do its work, and do no other's.

    A group may have several programs: one that serves something else stands in for nobody.
    """
    taken = {other.stand_in for other in state.recycles.values() if other is not recycle}
    able = {worker.pid for worker in ready(sample) if not worker.remote and recycle.serves <= worker.serves}
    stand_ins = (process for process in sample.processes or () if process.stand_in and process.group == recycle.group)
    return [process for process in stand_ins if process.pid in able and process.full_name not in taken]


def _await_drained(recycle: Recycle, process: ProcessSample, sample: Sample, state: State, now: float) -> list[Action]:
    own = worker_of(process, sample) if process.pid == recycle.pid else None
    if own is not None and own.drained_by == "operator":
        return _end(recycle, state, now, "an operator drains it")
    late = now - recycle.since >= state.settings.drain_s
    if own is not None and own.state == "ready":  # The broker has started anew since then, or did not hear it.
        others = (other.serves for other in ready(sample) if other is not own)
        covered = recycle.serves <= frozenset().union(*others)
        if not late:
            return [Quiet(recycle.name, recycle.pid)] if covered else []
        if not covered:
            return _end(recycle, state, now, "it serves again, and nobody else does")
    held = own.held if own is not None else 0
    if held and not late:
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
    if _stays_away(process, recycle, now):
        return _end(recycle, state, now, _why_away(process))
    recycle.phase, recycle.since = "start", now
    return []


def _await_ready(recycle: Recycle, process: ProcessSample, sample: Sample, state: State, now: float) -> list[Action]:
    worker = worker_of(process, sample)
    if worker is not None and worker.pid != recycle.pid and worker.state == "ready":
        del state.recycles[recycle.name]
        seconds = round(now - recycle.begun, 1)
        text = f"{recycle.name} is recycled after {seconds} s"
        fields = {"worker": recycle.name, "reason": recycle.reason, "seconds": seconds, "pid": process.pid}
        return [say(state, now, "info", "recycled", text, **fields)]
    if _stays_away(process, recycle, now):
        return _end(recycle, state, now, _why_away(process))
    if now - recycle.since >= state.settings.start_max_s:
        return _end(recycle, state, now, f"it was not ready within {state.settings.start_max_s:g} s")
    return []


def _stays_away(process: ProcessSample, recycle: Recycle, now: float) -> bool:
    """Whether its process does not come back; supervisord shows one that died as EXITED until it starts it again."""
    sure = process.state != "EXITED" or now - recycle.since >= SETTLE_S
    return process.state in GONE and sure and not process.restarting


def _why_away(process: ProcessSample) -> str:
    return f"its process is {process.state}: {process.reason or 'stopped by somebody'}"


def _end(recycle: Recycle, state: State, now: float, why: str, again_s: float = FAILED_AGAIN_S) -> list[Action]:
    del state.recycles[recycle.name]
    state.counts["recycle failures"] += 1
    state.not_before[recycle.name] = max(state.not_before.get(recycle.name, 0.0), now + again_s)
    text = f"the recycle of {recycle.name} ended in phase {recycle.phase}: {why}"
    fields = {"worker": recycle.name, "reason": recycle.reason, "phase": recycle.phase, "why": why}
    return [say(state, now, "error", "recycle_failed", text, **fields)]
