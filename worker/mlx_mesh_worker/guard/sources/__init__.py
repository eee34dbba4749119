"""What the guard sees: bounds of memory, signals of the operating system, and what processes take.

A source that this machine does not have is left out. One that fails is logged once, counted and survived.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mlx_mesh_wire.guard_report import TEXT_MAX_CHARS, Limit
from mlx_mesh_wire.logs import log
from mlx_mesh_worker.guard.samples import Signals
from mlx_mesh_worker.guard.sources import machine
from mlx_mesh_worker.guard.sources.linux import Linux
from mlx_mesh_worker.guard.sources.machine import total_memory
from mlx_mesh_worker.guard.sources.macos import MacOS, library
from mlx_mesh_worker.guard.sources.nvidia import Devices, find_devices
from mlx_mesh_worker.guard.sources.processes import footprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Reading", "Sources", "Systems", "total_memory"]

Value = TypeVar("Value")
GIB = 1 << 30


class Reading(NamedTuple):
    """What was seen at one moment.

    Attributes:
        limits: bounds of memory that are known, one of each source at most.
        signals: of the operating system.
        footprints: bytes of each process, by pid; without those that are gone or cannot be read.
    """

    limits: list[Limit]
    signals: Signals
    footprints: dict[int, int]


class Systems(NamedTuple):
    """What there is to ask besides psutil; None for what this machine does not have."""

    linux: Linux | None
    macos: MacOS | None
    devices: Devices | None


def this_machine() -> Systems:
    """Return what this machine has."""
    linux = Linux() if sys.platform == "linux" else None
    macos = MacOS(library()) if sys.platform == "darwin" else None
    return Systems(linux, macos, find_devices())


class Sources:
    """Reads all sources, and remembers which of them fail.

    Args:
        reserve_bytes: of the machine's memory that are to stay free.
        ceiling_bytes: what the processes may take together; 0 for no such bound.
        systems: what to ask; what this machine has if left out.

    Attributes:
        errors: how often each source could not be read.
    """

    def __init__(self, reserve_bytes: int, ceiling_bytes: int = 0, systems: Systems | None = None) -> None:
        self._reserve = reserve_bytes
        self._ceiling = ceiling_bytes
        self._linux, self._macos, self._devices = this_machine() if systems is None else systems
        self._failing: dict[str, set[str]] = {}
        self.errors: dict[str, int] = {}

    def read(self, pids: Iterable[int]) -> Reading:
        """Look once. Takes well below a millisecond on Linux; never raises."""
        footprints = self._footprints(pids)
        return Reading(self._limits(footprints), self._signals(), footprints)

    def describe(self) -> dict[str, str]:
        """Return, for the log, which sources are in use, with the limits that they set."""
        reading = self.read([])
        limits = [f"{limit.source} {limit.limit / GIB:.2f} GiB" for limit in reading.limits]
        signals = [name for name, value in reading.signals._asdict().items() if value is not None]
        return {"limits": ", ".join(limits) or "none", "signals": ", ".join(signals) or "none"}

    def _limits(self, footprints: dict[int, int]) -> list[Limit]:
        limits = [self._ask("ram", lambda: machine.ram(self._reserve), None)]
        if self._ceiling > 0:
            limits.append(Limit("configured", sum(footprints.values()), self._ceiling))
        if self._linux is not None:
            limits.append(self._ask("cgroup", self._linux.cgroup, None))
        if self._devices is not None:
            limits.append(self._ask("device", self._devices.fullest, None))
        return [limit for limit in limits if limit is not None]

    def _signals(self) -> Signals:
        some, full, level = None, None, None
        if self._linux is not None and (pressure := self._ask("psi", self._linux.pressure, None)):
            some, full = pressure
        if self._macos is not None:
            level = self._ask("level", self._macos.level, None)
        swap = machine.swap_used if self._macos is None else self._macos.swap_used
        return Signals(psi_some=some, psi_full=full, swap_used=self._ask("swap", swap, None), level=level)

    def _footprints(self, pids: Iterable[int]) -> dict[int, int]:
        on_devices: dict[int, int] = {}
        if self._devices is not None:
            on_devices = self._ask("device_processes", self._devices.by_pid, on_devices)
        found: dict[int, int] = {}
        failure: Exception | None = None
        for pid in pids:
            try:
                taken = footprint(pid, self._macos, on_devices)
            except Exception as error:  # noqa: BLE001  one process that cannot be read hides no other
                failure = error
                continue
            if taken is not None:
                found[pid] = taken
        self._told("processes", failure)
        return found

    def _ask(self, source: str, read: Callable[[], Value], otherwise: Value) -> Value:
        """Return what a source says; ``otherwise`` if it fails."""
        try:
            value = read()
        except Exception as error:  # noqa: BLE001  whatever it is, the others are read all the same
            self._told(source, error)
            return otherwise
        self._told(source, None)
        return value

    def _told(self, source: str, failure: Exception | None) -> None:
        """Keep count, and log what is new: the first failure of each kind, and that a source works again."""
        if failure is None:
            if self._failing.pop(source, None):
                log("info", "source_back", source=source)
            return
        self.errors[source] = self.errors.get(source, 0) + 1
        kind = type(failure).__name__
        kinds = self._failing.setdefault(source, set())
        if kind not in kinds:
            kinds.add(kind)
            log("warning", "source_failed", source=source, reason=f"{kind}: {failure}"[:TEXT_MAX_CHARS])
