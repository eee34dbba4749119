"""What the guard tells the broker, put together from what it saw and what it remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_wire import limits
from mlx_mesh_wire.guard_report import RUNGS, TEXT_MAX_CHARS, Footprint, GuardReport, Recycle, Troubled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_mesh_worker.guard.samples import Sample
    from mlx_mesh_worker.guard.state import State


def report(
    sample: Sample, state: State, now: float, *, pid: int, uptime_s: float, errors: Mapping[str, int]
) -> GuardReport:
    """Return the report of this moment; ``errors`` are the failures of sources so far."""
    return GuardReport(
        pid=pid,
        uptime_s=round(uptime_s, 1),
        pressure=round(state.pressure, 4),
        rung=RUNGS[state.rung],
        paused=state.paused,
        paused_s=round(now - state.paused_since, 1) if state.paused else 0.0,
        limits=[limit._replace(used=max(0, limit.used), limit=max(0, limit.limit)) for limit in sample.limits],
        signals={name: float(value) for name, value in sample.signals._asdict().items() if value is not None},
        workers=_footprints(sample, state, now),
        recycles=[
            Recycle(recycle.name, recycle.phase, recycle.reason, round(now - recycle.begun, 1))
            for recycle in state.recycles.values()
        ],
        troubled=_troubled(sample, state, now),
        counters=dict(sorted(state.counts.items())[: limits.MAP_MAX_ITEMS]),
        errors=dict(errors),
        recent=[f"{round(now - at)} s ago: {text}"[:TEXT_MAX_CHARS] for at, text in state.recent],
    )


def _footprints(sample: Sample, state: State, now: float) -> list[Footprint]:
    found = []
    for worker in sample.workers or ():
        growth = state.growths.get(worker.pid)
        if worker.remote or worker.footprint is None:
            continue
        slope, leaking = (0.0, False) if growth is None else (growth.slope, growth.leaking(now))
        found.append(Footprint(worker.name, worker.footprint, state.baseline(worker), round(slope, 1), leaking))
    return found


def _troubled(sample: Sample, state: State, now: float) -> list[Troubled]:
    processes = {process.full_name: process for process in sample.processes or ()}
    found = []
    for name, entry in state.given_up.items():
        process = processes.get(name)
        if process is None or entry.well_since is not None:
            continue
        due = max(0.0, entry.retry_at - now) if state.settings.retry_s else -1.0
        reason = entry.reason[:TEXT_MAX_CHARS]
        state_name = process.state if process.state != "RUNNING" else "STARTING"
        found.append(
            Troubled(process.name, process.group, state_name, reason, round(now - entry.since, 1), round(due, 1))
        )
    return found
