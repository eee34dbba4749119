"""What a worker tells the broker of itself: who it is, and with each beat, how it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlx_mesh_wire import limits, messages
from mlx_mesh_wire.host import own_identity
from mlx_mesh_worker.session import Vitals
from mlx_mesh_worker.versions import versions
from mlx_mesh_worker.vitals import resident_bytes

if TYPE_CHECKING:
    from mlx_mesh_worker.compute import Compute
    from mlx_mesh_worker.engine import Engine
    from mlx_mesh_worker.settings import WorkerSettings
    from mlx_mesh_worker.watchdog import Watchdog

DEFAULT_NAME_CHARS = limits.NAME_MAX_CHARS - 12
"""What is taken of the engine's name; the rest is for the pid."""


class SelfReport:
    """Collects what is told.

    Args:
        settings: of this worker.
        compute: whose engine has been found.
        watchdog: knows how far compute has come.
        instance: by which the broker tells this process from others of its name.
    """

    def __init__(self, settings: WorkerSettings, compute: Compute, watchdog: Watchdog, instance: bytes) -> None:
        self._settings = settings
        self._compute = compute
        self._watchdog = watchdog
        self._instance = instance
        self._rss_ready = 0

    @property
    def _engine(self) -> Engine:
        assert self._compute.engine is not None  # noqa: S101  start() sets it
        return self._compute.engine

    @property
    def resumes(self) -> bool:
        """Whether streams of the engine go on from where an earlier worker was."""
        return self._engine.resumes

    def ready(self) -> messages.Ready:
        """Return who this worker is and what it serves."""
        engine, settings = self._engine, self._settings
        host, machine, pid, pid_start = own_identity()
        return messages.Ready(
            major=limits.PROTOCOL_MAJOR,
            minor=limits.PROTOCOL_MINOR,
            instance=self._instance,
            name=settings.name or f"{settings.engine.rpartition(':')[2].lower()[:DEFAULT_NAME_CHARS]}-{pid}",
            host=host,
            machine=machine,
            pid=pid,
            pid_start=pid_start,
            ops=list(engine.ops),
            pure_ops=list(engine.pure_ops),
            models=list(engine.models),
            slots=settings.slots or engine.slots,
            load_max_ms=int(settings.load_max_s * 1000),
            versions={**self._compute.about, **versions()},
            bulk_slots=engine.bulk_slots,
        )

    def warmed_up(self) -> None:
        """Remember what memory the process takes from the beginning, so that what it grows by can be told."""
        self._rss_ready = resident_bytes()

    def vitals(self) -> Vitals:
        """Return what a beat says."""
        runner = self._compute.runner
        warm = self._engine.warm_models() if runner else ()
        self._compute.refresh()
        figures, counters = self._compute.memory, self._compute.counters
        memory = {"rss": resident_bytes(), **figures}  # looked at last: what figures say was given back is not in it
        if self._rss_ready:
            memory["rss_ready"] = self._rss_ready
        if runner is None:
            return Vitals(0, (), warm, memory, counters)
        progress = self._watchdog.progress(time.monotonic())
        return Vitals(progress, [job.id for job in runner.running if job.id > 0], warm, memory, counters)
