"""Which worker is recycled, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_worker.guard.actions import Action, AddStandIn, Quiet, Restart
from mlx_mesh_worker.guard.candidates import Candidate, allowed, alone, candidates, least_gain, may_surge, worth
from mlx_mesh_worker.guard.ladder import RECYCLE, STOP, figures, overdue
from mlx_mesh_worker.guard.state import Recycle, mib, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_worker.guard.samples import Sample
    from mlx_mesh_worker.guard.state import State

SUSTAINED_S: Final = 2.0
"""How long pressure must last before a worker goes for it that does not seem to leak: one batch is over by then."""

OVER_BUDGET_S: Final = 5.0
STOP_AGAIN_S: Final = 10.0
STOP_AGAIN_MAX_S: Final = 300.0
"""How soon the same worker is stopped at once again; the pause doubles each time up to the longest."""


def begin(sample: Sample, state: State, now: float) -> list[Action]:
    """Begin the recycles that are due and allowed; at most one for memory at a time."""
    if sample.processes is None or sample.workers is None:
        return []
    found = candidates(sample, state, now)
    actions = _for_memory(sample, state, found, now)
    for each in found:
        reason = _worn(each, state, now)
        # One stand-in at a time: each is allowed by the memory that there is before it loads.
        warming = any(recycle.phase == "stand-in" for recycle in state.recycles.values())
        if reason and not warming and allowed(each, sample, state, now):
            actions += _start(each, reason, sample, state, now)
    return actions


def helpless(sample: Sample, state: State, now: float) -> bool:
    """Whether a recycle is due and workers have grown, but none is under way and none could be begun.

    If none has grown it is others who take the memory: to hold requests back would help nobody.
    """
    if state.rung < RECYCLE or state.recycles:
        return False
    found = candidates(sample, state, now)
    could = any(worth(each, sample) and allowed(each, sample, state, now) for each in found)
    return not could and any(each.grown >= least_gain(sample) for each in found)


def _for_memory(sample: Sample, state: State, found: Sequence[Candidate], now: float) -> list[Action]:
    freeing = [recycle for recycle in state.recycles.values() if recycle.phase != "start"]
    if freeing and state.rung >= STOP:
        return _hurry(freeing, now)
    if freeing or now < state.settled_after:
        return []
    if state.rung >= STOP:
        return _stop_at_once(sample, state, found, now)
    lasting = now - state.since[RECYCLE] >= SUSTAINED_S
    late = overdue(state, now)
    if state.rung < RECYCLE and not late:
        return []
    reason = "memory" if state.rung >= RECYCLE else "pause"
    for each in found:
        if not (lasting or late or each.suspicious):
            continue
        old_enough = each.worker.uptime_s >= state.settings.cooldown_s
        if old_enough and worth(each, sample) and allowed(each, sample, state, now):
            return _start(each, reason, sample, state, now)
    return []


def _hurry(recycles: Sequence[Recycle], now: float) -> list[Action]:
    """Have workers that still finish what they hold leave at once."""
    actions: list[Action] = []
    for recycle in recycles:
        if recycle.phase == "drain":
            recycle.phase, recycle.since = "stop", now
            actions.append(Restart(recycle.process, True))
    return actions


def _stop_at_once(sample: Sample, state: State, found: Sequence[Candidate], now: float) -> list[Action]:
    for each in found:
        name = each.worker.name
        if not worth(each, sample) or now < state.not_before.get(name, 0.0) or not alone(each, state):
            continue
        if now - state.not_before.get(name, now) >= STOP_AGAIN_MAX_S:  # It went well for long enough.
            del state.stops[name]
        pause_s = min(STOP_AGAIN_S * 2 ** state.stops[name], STOP_AGAIN_MAX_S)
        state.stops[name] += 1
        state.not_before[name] = now + pause_s
        state.no_relief = False
        return _start(each, "stop", sample, state, now)
    if not state.no_relief and not any(now < after for after in state.not_before.values()):
        state.no_relief = True
        text = "no worker would give back enough by starting anew: the limit is too low, or others take the memory"
        return [say(state, now, "error", "no_relief", text, hint=text, **figures(sample, state))]
    return []


def _worn(each: Candidate, state: State, now: float) -> str:
    """Return why a worker is due for a recycle apart from pressure; empty if it is not."""
    settings, worker = state.settings, each.worker
    if settings.max_footprint_bytes and each.footprint > settings.max_footprint_bytes:
        lasting = now - state.over_budget.setdefault(worker.pid, now) >= OVER_BUDGET_S
        # One that takes more from the first would be recycled again and again, in vain.
        helps = each.gain > 0 and state.baseline(worker) <= settings.max_footprint_bytes
        if lasting and helps and worker.uptime_s >= settings.cooldown_s:
            return "budget"
    else:
        state.over_budget.pop(worker.pid, None)
    if settings.max_age_s and worker.uptime_s > settings.max_age_s:
        return "age"
    return "served" if settings.max_served and worker.served > settings.max_served else ""


def _start(each: Candidate, reason: str, sample: Sample, state: State, now: float) -> list[Action]:
    worker, process = each.worker, each.process
    recycle = Recycle(
        worker.name, process.full_name, process.group, worker.pid, worker.serves, reason, "drain", now, now
    )
    state.recycles[worker.name] = recycle
    state.counts[f"recycles {reason}"] += 1
    memory = {
        "footprint_mib": mib(each.footprint),
        "grown_mib": mib(each.gain),
        "leaking": each.suspicious,
        "age_s": round(worker.uptime_s),
        "served": worker.served,
        "held": worker.held,
    }
    text = f"{worker.name} is recycled ({reason}): {mib(each.footprint)} MiB, {mib(each.gain)} of them grown"
    fields: dict[str, Any] = {"worker": worker.name, "reason": reason, **memory, **figures(sample, state)}
    told = say(state, now, "warning" if reason == "stop" else "info", "recycle", text, **fields)
    if reason == "stop":
        recycle.phase = "stop"
        return [told, Restart(recycle.process, True)]
    if may_surge(each, sample, state):
        recycle.phase = "stand-in"
        return [told, AddStandIn(recycle.process)]
    return [told, Quiet(worker.name, worker.pid)]
