"""The ladder: how short memory is, and what is done about it short of recycling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_mesh_wire.guard_report import RUNGS
from mlx_mesh_worker.guard.actions import Action, Trim
from mlx_mesh_worker.guard.state import UNKNOWN, mib, say

if TYPE_CHECKING:
    from mlx_mesh_worker.guard.samples import Sample, Signals
    from mlx_mesh_worker.guard.settings import GuardSettings
    from mlx_mesh_worker.guard.state import State

CALM, TRIM, PAUSE, RECYCLE, STOP = range(len(RUNGS))

PSI_FULL_HIGH: Final = 10.0
PSI_SOME_HIGH: Final = 20.0
"""Percent of the last 10 s in which all tasks, or some task, waited for memory.

systemd-oomd kills at 60 % of a slice's full stall over 30 s, Meta's oomd examples act at 5 to 10 %: these come earlier
than the one, and do less than the other.
"""

SWAP_GROWTH_HIGH: Final = 16 * 1024 * 1024
SWAP_WINDOW_S: Final = 10.0
"""Bytes per second by which swap, or macOS's compressor, grows over that time: the machine is pushing memory out."""

TRIM_HARDER_S: Final = 5.0
"""How long level 1 may take to show before level 2."""

TRIM_AGAIN_S: Final = 30.0
"""Caches fill again; this often they are cleared while memory stays short."""

CALM_S: Final = 10.0
"""How long memory must be plenty before workers return to full batches."""

RELIEF_S: Final = 3.0
"""How long standard requests still go on above ``recycle_at`` when no recycle can help."""


def climb(sample: Sample, state: State, now: float) -> list[Action]:
    """Tell how short memory is, and find the rung for it: up at a threshold, down a little below it."""
    settings = state.settings
    tightest = sample.tightest
    pressure = 0.0 if tightest is None else tightest.ratio
    lifted, signal = _lift(sample.signals, state, now)
    state.source = signal if lifted > pressure else (tightest.source if tightest is not None else "")
    state.pressure = pressure = max(pressure, lifted)
    thresholds = (settings.trim_at, settings.pause_at, settings.recycle_at, settings.stop_at)
    up = sum(pressure >= threshold for threshold in thresholds)
    down = sum(pressure >= threshold - settings.hysteresis for threshold in thresholds)
    before, state.rung = state.rung, max(up, min(state.rung, down))
    for rung in range(before + 1, state.rung + 1):
        state.since[rung] = now
    if state.rung < before:
        state.since[CALM] = now
    state.no_relief &= state.rung >= STOP
    return _told(sample, state, before, now)


def trim(sample: Sample, state: State, now: float) -> list[Action]:
    """Have workers give back what they do not need: caches first, then large batches, and tell them when it is over."""
    if sample.workers is None:
        return []
    level, here = state.trim_level, {worker.pid for worker in sample.workers if not worker.remote}
    wanted = _wanted(state, now)
    # A worker that the broker did not know at the end of it would shrink its batches for ever.
    missed = wanted == level == 0 and bool(here & state.shrunk)
    if wanted == level and not missed and (level <= 0 or now - state.trimmed < TRIM_AGAIN_S):
        return []
    silent, state.trim_level, state.trimmed = missed or level == UNKNOWN, wanted, now
    state.shrunk = state.shrunk | here if wanted else state.shrunk - here
    if silent and not wanted:
        return [Trim(0)]
    state.counts["trims"] += wanted > 0
    text = f"workers trim at level {wanted}" if wanted else "workers need not trim any more"
    return [Trim(wanted), say(state, now, "info", "trim", text, trim_level=wanted, **figures(sample, state))]


def _wanted(state: State, now: float) -> int:
    """Return the level of trimming that is due; the present one for as long as memory is not plenty for sure."""
    if state.rung == CALM:
        return 0 if now - state.since[CALM] >= CALM_S else state.trim_level
    if state.rung > TRIM or now - state.since[TRIM] >= TRIM_HARDER_S:
        return 2
    return max(1, state.trim_level)


def pause(sample: Sample, state: State, now: float, *, helpless: bool) -> list[Action]:
    """Let bulk requests wait, then standard ones; end that when memory is there again, or it has lasted too long.

    Args:
        sample: what is known.
        state: changed; ``paused`` is what the broker is told.
        now: seconds of a monotonic clock.
        helpless: a recycle is due, workers have grown, none is under way and none can be begun.
    """
    if state.paused and (state.rung < PAUSE or overdue(state, now)):
        if state.rung >= PAUSE:
            state.pause_after = now + state.settings.pause_max_s
        seconds, state.paused = round(now - state.paused_since, 1), ""
        text = f"all requests go on after {seconds} s"
        return [say(state, now, "info", "resume", text, seconds=seconds, **figures(sample, state))]
    if state.rung < PAUSE or now < state.pause_after:
        return []
    lane = "standard" if helpless and now - state.since[RECYCLE] >= RELIEF_S else "bulk"
    if state.paused in (lane, "standard"):
        return []
    if not state.paused:
        state.paused_since = now
    state.paused = lane
    state.counts["pauses"] += 1
    text = f"{'bulk' if lane == 'bulk' else 'standard and bulk'} requests wait"
    return [say(state, now, "warning", "pause", text, lane=lane, **figures(sample, state))]


def overdue(state: State, now: float) -> bool:
    """Whether a pause has lasted as long as it may; asked before it ends."""
    return bool(state.paused) and state.rung >= PAUSE and now - state.paused_since >= state.settings.pause_max_s


def figures(sample: Sample, state: State) -> dict[str, object]:
    """Return the figures that a decision was taken on, for its log line."""
    found: dict[str, object] = {"pressure": round(state.pressure, 3), "of": state.source}
    if (tightest := sample.tightest) is not None:
        found |= {"used_mib": mib(tightest.used), "limit_mib": mib(tightest.limit)}
    return found


def _lift(signals: Signals, state: State, now: float) -> tuple[float, str]:
    """Return the pressure that the operating system's own signals amount to, and which one; 0 if they are at rest."""
    settings: GuardSettings = state.settings
    if signals.swap_used is not None:
        state.swap.append((now, signals.swap_used))
        while now - state.swap[0][0] > SWAP_WINDOW_S:
            state.swap.popleft()
    since, before = state.swap[0] if state.swap else (now, 0)
    growth = ((signals.swap_used or 0) - before) / SWAP_WINDOW_S if now > since else 0.0
    lifts = [
        (settings.recycle_at, "macos_critical", (signals.level or 0) >= 4),  # noqa: PLR2004  documented by Apple
        (settings.pause_at, "macos_warning", (signals.level or 0) >= 2),  # noqa: PLR2004  likewise
        (settings.pause_at, "psi_full", (signals.psi_full or 0.0) >= PSI_FULL_HIGH),
        (settings.pause_at, "swap_growth", growth >= SWAP_GROWTH_HIGH),
        (settings.trim_at, "psi_some", (signals.psi_some or 0.0) >= PSI_SOME_HIGH),
    ]
    return next(((lift, name) for lift, name, on in lifts if on), (0.0, ""))


def _told(sample: Sample, state: State, before: int, now: float) -> list[Action]:
    if state.rung == before:
        return []
    was, rung = RUNGS[before], RUNGS[state.rung]
    level = "warning" if state.rung > before else "info"
    text = f"memory: {was} to {rung} at {state.pressure:.0%} of {state.source or 'nothing'}"
    fields = {"rung": rung, "was": was, **figures(sample, state)}
    return [say(state, now, level, "memory_pressure", text, **fields)]
