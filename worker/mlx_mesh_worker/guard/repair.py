"""Workers that stand still, that the broker no longer hears, and processes that supervisord has given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_mesh_worker.guard.actions import Action, Dump, Kill, Restart, Start
from mlx_mesh_worker.guard.samples import ready, worker_of
from mlx_mesh_worker.guard.state import GivenUp, Stuck, say

if TYPE_CHECKING:
    from mlx_mesh_worker.guard.samples import ProcessSample, Sample
    from mlx_mesh_worker.guard.state import State

REPLACED_AGAIN_S: Final = 30.0
"""How soon the same worker is replaced again: its successor has to load before anything can be said of it."""

WELL_S: Final = 60.0
"""How long a process must run before its next failure counts as the first."""

DUMP_S: Final = 1.0
"""What writing the stacks is given before the process is told to leave."""


def replace_stuck(sample: Sample, state: State, now: float) -> list[Action]:
    """Replace workers that are stalled, or run and are unknown to the broker: stacks first, then TERM, then KILL."""
    if sample.processes is None or sample.workers is None:
        # Patience is with a worker, not with those who should tell of it.
        state.stuck = {name: stuck for name, stuck in state.stuck.items() if stuck.dumped is not None}
        return []
    actions: list[Action] = []
    present: set[str] = set()
    for process in sample.processes:
        if not process.worker:
            continue
        present.add(process.full_name)
        actions += _watch(process, _complaint(process, sample, state), state, now)
    for table in (state.stuck, state.replaced):
        for name in table.keys() - present:
            del table[name]
    return actions


def _complaint(process: ProcessSample, sample: Sample, state: State) -> str:
    """Return what is wrong with the process of a worker: ``stalled``, ``missing`` or nothing."""
    worker = worker_of(process, sample)
    if worker is not None:
        return "stalled" if worker.state == "stalled" else ""
    if process.state != "RUNNING" or sample.broker_up_s < state.settings.missing_s:
        return ""
    known = process.pid in state.known
    return "missing" if known or process.running_s >= state.settings.start_max_s else ""


def _watch(process: ProcessSample, complaint: str, state: State, now: float) -> list[Action]:
    name, settings = process.full_name, state.settings
    stuck = state.stuck.get(name)
    if stuck is not None and stuck.dumped is not None:
        return _see_off(process, stuck, state, now)
    if not complaint:
        state.stuck.pop(name, None)
        return []
    if stuck is None or stuck.why != complaint or stuck.pid != process.pid:
        stuck = state.stuck[name] = Stuck(complaint, now, process.pid)
    patience = settings.stalled_s if complaint == "stalled" else settings.missing_s
    recently = name in state.replaced and now - state.replaced[name] < REPLACED_AGAIN_S
    if now - stuck.since < patience or recently:
        return []
    stuck.dumped = state.replaced[name] = now
    state.counts[f"replaced {complaint}"] += 1
    why = "does not get on with what it holds" if complaint == "stalled" else "is not heard of any more"
    text = f"{process.name} ({process.pid}) {why} and is replaced"
    fields = {"worker": process.name, "pid": process.pid, "why": complaint}
    return [say(state, now, "warning", "replaced", text, **fields), Dump(name)]


def _see_off(process: ProcessSample, stuck: Stuck, state: State, now: float) -> list[Action]:
    name = process.full_name
    if process.pid != stuck.pid:
        del state.stuck[name]
        return []
    if stuck.asked is None:
        if now - (stuck.dumped or now) < DUMP_S:
            return []
        stuck.asked = now
        return [Restart(name, True)]
    if now - stuck.asked < state.settings.kill_s:
        return []
    stuck.asked = now
    return kill(state, now, process.name, name, process.pid)


def kill(state: State, now: float, name: str, process: str, pid: int) -> list[Action]:
    """Return what ends a process that does not leave."""
    state.counts["kills"] += 1
    text = f"{name} ({pid}) does not leave and is killed"
    return [say(state, now, "warning", "killed", text, worker=name, pid=pid), Kill(process, pid)]


def retry_given_up(sample: Sample, state: State, now: float) -> list[Action]:
    """Start what supervisord has given up, with growing pauses, until it runs."""
    if sample.processes is None:
        return []
    actions: list[Action] = []
    ours = (each for each in sample.processes if (each.worker or each.broker) and not each.stand_in)
    present = {process.full_name: process for process in ours}
    for name in state.given_up.keys() - present.keys():
        del state.given_up[name]
    for name, process in present.items():
        entry = state.given_up.get(name)
        gone = process.state in ("FATAL", "EXITED") and not process.restarting
        if entry is None and gone:
            actions.append(_give_up(process, state, now))
        elif entry is not None and gone:
            actions += _try(process, entry, state, now)
        elif entry is not None:
            _look(process, entry, sample, state, now)
    return actions


def _give_up(process: ProcessSample, state: State, now: float) -> Action:
    retry_s = state.settings.retry_s
    state.given_up[process.full_name] = GivenUp(now, now + retry_s, 0, process.reason)
    again = f"it is started again in {retry_s:g} s" if retry_s else "it is not started again"
    text = f"{process.name} is {process.state}: {process.reason}; {again}"
    fields = {"process": process.full_name, "state": process.state, "reason": process.reason, "retry_s": retry_s}
    return say(state, now, "error", "given_up", text, **fields)


def _try(process: ProcessSample, entry: GivenUp, state: State, now: float) -> list[Action]:
    entry.reason = process.reason or entry.reason
    entry.well_since = None
    settings = state.settings
    if entry.retry_at <= 0.0:  # It was started, and is given up once more: only now does the next pause begin.
        entry.retry_at = now + min(settings.retry_s * 2**entry.tries, settings.retry_max_s)
    if not settings.retry_s or now < entry.retry_at:
        return []
    entry.tries = min(entry.tries + 1, 30)
    entry.retry_at = 0.0
    state.counts["retries"] += 1
    text = f"{process.name} is started again (try {entry.tries}) after: {entry.reason}"
    fields = {"process": process.full_name, "tries": entry.tries, "reason": entry.reason}
    return [say(state, now, "info", "retry", text, **fields), Start(process.full_name)]


def _look(process: ProcessSample, entry: GivenUp, sample: Sample, state: State, now: float) -> None:
    """Forget that a process was given up once it does what it should, for long enough to believe it."""
    if process.state == "STOPPED":
        del state.given_up[process.full_name]
        return
    serving = {worker.pid for worker in ready(sample) if not worker.remote}
    well = process.pid in serving if process.worker else process.state == "RUNNING"
    if not well:
        entry.well_since = None
    elif entry.well_since is None:
        entry.well_since = now
    elif now - entry.well_since >= WELL_S:
        del state.given_up[process.full_name]
