"""What the guard remembers from one look to the next."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_worker.guard.actions import Say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_mesh_worker.guard.growth import Growth
    from mlx_mesh_worker.guard.samples import ProcessSample, WorkerSample
    from mlx_mesh_worker.guard.settings import GuardSettings

RECENT_MAX: Final = 8
"""Actions that are shown in the status."""

MIB: Final = 1024 * 1024

COUNTED: Final = (
    "kills",
    "pauses",
    "recycle failures",
    *(f"recycles {reason}" for reason in ("memory", "stop", "pause", "budget", "age", "served")),
    "replaced missing",
    "replaced stalled",
    "retries",
    "trims",
)
"""What is counted. All begin at nought: of a series that begins at one Prometheus misses the first."""

UNKNOWN: Final = -1
"""Level of trimming that an earlier guard may have left behind."""


@dataclass
class Recycle:
    """A recycle under way.

    Attributes:
        name: of the worker; ``process`` is what supervisorctl calls it.
        pid: of the process that is to go.
        serves: what it serves.
        reason: memory, stop, pause, budget, age or served; adopted for one that an earlier guard began.
        phase: stand-in, drain, stop or start; it began at ``since``.
        stand_in: full name of the process that works meanwhile, if any.
        killed: when SIGKILL was last sent.
    """

    name: str
    process: str
    group: str
    pid: int
    serves: frozenset[tuple[str, str]]
    reason: str
    phase: str
    since: float
    begun: float
    stand_in: str = ""
    killed: float = 0.0


@dataclass
class Stuck:
    """A worker that is stalled, or that the broker no longer knows.

    Attributes:
        why: ``stalled`` or ``missing``, since ``since``.
        pid: of the process.
        dumped: when it was asked for its stacks.
        asked: when it was last made to leave, by TERM or KILL.
    """

    why: str
    since: float
    pid: int
    dumped: float | None = None
    asked: float | None = None


@dataclass
class GivenUp:
    """A process that supervisord has given up, and the tries since then."""

    since: float
    retry_at: float
    tries: int = 0
    reason: str = ""
    well_since: float | None = None


@dataclass
class State:
    """The guard's memory.

    Attributes:
        settings: thresholds and times.
        pressure: as of the last look; ``source`` says of what.
        rung: 0 to 4; it has been at least ``n`` since ``since[n]``.
        paused: the highest lane that waits, since ``paused_since``; no pause begins before ``pause_after``.
        trim_level: what workers were told last, at ``trimmed``; those of ``shrunk`` (pids) were not told of its end.
        growths: of the footprint, by pid.
        known: pids of workers that the broker has known.
        settled_after: when the last recycle for memory will show in the figures.
        not_before: when a worker may be recycled again, by name.
        stops: how often a worker was stopped at once, by name.
        no_relief: it was said that nobody would give enough back.
    """

    settings: GuardSettings
    pressure: float = 0.0
    source: str = ""
    rung: int = 0
    since: list[float] = field(default_factory=lambda: [0.0] * 5)
    swap: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))
    paused: str = ""
    paused_since: float = 0.0
    pause_after: float = 0.0
    trim_level: int = UNKNOWN
    trimmed: float = 0.0
    shrunk: set[int] = field(default_factory=set)
    growths: dict[int, Growth] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    over_budget: dict[int, float] = field(default_factory=dict)
    recycles: dict[str, Recycle] = field(default_factory=dict)
    settled_after: float = 0.0
    not_before: dict[str, float] = field(default_factory=dict)
    stops: Counter[str] = field(default_factory=Counter)
    stuck: dict[str, Stuck] = field(default_factory=dict)
    replaced: dict[str, float] = field(default_factory=dict)
    given_up: dict[str, GivenUp] = field(default_factory=dict)
    no_relief: bool = False
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTED, 0)))
    recent: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))

    def baseline(self, worker: WorkerSample) -> int:
        """Return what a worker took when it had just become ready, in bytes."""
        told = worker.memory.get("rss_ready", 0)
        growth = self.growths.get(worker.pid)
        return told or (growth.baseline if growth is not None else 0) or worker.footprint or 0


def say(state: State, now: float, level: str, event: str, text: str, /, **fields: Any) -> Say:
    """Return a log line, and remember it for the status."""
    state.recent.append((now, text))
    return Say(level, event, fields, text)


def mib(size: float) -> int:
    """Return bytes as whole MiB, for log lines."""
    return round(size / MIB)


def by_pid(processes: Iterable[ProcessSample]) -> dict[int, ProcessSample]:
    """Return the processes that run, by pid."""
    return {process.pid: process for process in processes if process.pid}
