"""The guard's loop: events of supervisord as they come, and a look at everything once a second."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

from mlx_mesh_wire.logs import log
from mlx_mesh_wire.wake import Wake
from mlx_mesh_worker.guard import listener
from mlx_mesh_worker.guard.actions import Quiet, Say, Trim
from mlx_mesh_worker.guard.broker_link import BrokerLink, with_device
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.reporting import report
from mlx_mesh_worker.guard.samples import Sample, Signals
from mlx_mesh_worker.guard.settings import check_groups
from mlx_mesh_worker.guard.sources import Sources
from mlx_mesh_worker.guard.state import State
from mlx_mesh_worker.guard.supervisor_link import SupervisorLink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlx_mesh_worker.guard.actions import Action
    from mlx_mesh_worker.guard.samples import ProcessSample, WorkerSample
    from mlx_mesh_worker.guard.settings import GuardSettings

SOON_S = 0.2
"""How soon after the last look an event of a process calls for another."""

READ_BYTES = 65_536


class Shell:
    """One guard, for as long as supervisord wants it.

    Args:
        settings: checked.
        run_dir: of the mesh.
        total: bytes of memory of the machine.
    """

    def __init__(self, settings: GuardSettings, run_dir: Path, total: int) -> None:
        self._settings = settings
        self._supervisord = SupervisorLink(run_dir, settings.groups)
        self._broker = BrokerLink()
        self._sources = Sources(reserve_bytes=settings.reserve(total), ceiling_bytes=settings.ceiling_bytes)
        self._state = State(settings)
        self._reader = listener.Reader()
        self._wake = Wake()
        self._stopping = self._leaving = False
        self._sample = Sample([], Signals(), None, None)
        self._workers: Sequence[WorkerSample] = ()
        self._pids: dict[str, int] = {}
        self._checked = not settings.groups
        self._decided = False
        self._started = time.monotonic()
        self._looked = 0.0
        self._look_at = self._started

    def signalled(self) -> None:
        """SIGTERM or SIGINT came."""
        self._leaving = True
        self._wake.set()

    def run(self) -> None:
        """Guard until told to leave, or until supervisord is gone.

        Raises:
            ListenerError: stdin is no supervisord.
            SettingsError: a group is named that supervisord does not have.
        """
        _answer(listener.READY)
        self._look()
        log("info", "guard_ready", **self._sources.describe())
        while not self._leaving:
            timeout_s = max(0.0, self._look_at - time.monotonic())
            readable, _, _ = select.select([0, self._wake.fd], [], [], timeout_s)
            if 0 in readable and not self._take(os.read(0, READ_BYTES)):
                break
            if time.monotonic() >= self._look_at and not self._leaving:
                self._look()
        log("info", "guard_stopped")

    def _take(self, data: bytes) -> bool:
        """Take in what supervisord sent; False at its end."""
        for event in self._reader.feed(data):
            self._on_event(event)
            _answer(listener.DONE + listener.READY)
        return bool(data)

    def _on_event(self, event: listener.Event) -> None:
        if event.name == "SUPERVISOR_STATE_CHANGE_STOPPING":
            self._stopping = True
        if not event.name.startswith("PROCESS_STATE"):
            return
        self._broker.expect()
        self._supervisord.expect()
        self._look_at = min(self._look_at, max(self._looked + SOON_S, time.monotonic()))
        if event.name in ("PROCESS_STATE_EXITED", "PROCESS_STATE_BACKOFF", "PROCESS_STATE_FATAL"):
            name = f"{event.fields.get('groupname', '')}:{event.fields.get('processname', '')}"
            pid = event.pid or self._pids.get(name, 0)
            if pid and not self._stopping:
                self._broker.exited(pid)

    def _look(self) -> None:
        """Sample everything, decide, do."""
        now = self._looked = time.monotonic()
        self._look_at = now + self._settings.sample_s
        if not self._checked:
            self._check_groups()
        processes = self._supervisord.processes()
        if processes is not None:
            self._pids = {process.full_name: process.pid for process in processes if process.pid}
        reading = self._sources.read(self._worker_pids(processes))
        # The device's limit is what workers told last: the broker gets this before it says what they tell now.
        limits = with_device(reading.limits, self._workers)
        self._sample = self._sample._replace(limits=limits, signals=reading.signals)
        workers = self._tell(reading.footprints)
        if workers is not None:
            self._workers = workers
        self._sample = Sample(
            with_device(reading.limits, self._workers),
            reading.signals,
            workers,
            processes,
            self._broker.up_s,
            self._stopping or self._supervisord.stopping,
        )
        paused, first = self._state.paused, not self._decided
        for action in decide(self._sample, self._state, now):
            self._do(action)
        self._decided = True
        if first or paused != self._state.paused:  # What was told before knew nothing of this.
            self._tell(reading.footprints)

    def _worker_pids(self, processes: Sequence[ProcessSample] | None) -> set[int]:
        """Return the pids of all workers of this machine, those that somebody started by hand too."""
        pids = {worker.pid for worker in self._workers if not worker.remote}
        return pids | {process.pid for process in processes or () if process.worker and process.pid}

    def _tell(self, footprints: Mapping[int, int]) -> list[WorkerSample] | None:
        errors = self._sources.errors | {"broker": self._broker.failures, "supervisord": self._supervisord.failures}
        now = time.monotonic()
        told = report(self._sample, self._state, now, pid=os.getpid(), uptime_s=now - self._started, errors=errors)
        return self._broker.tell(told, footprints)

    def _do(self, action: Action) -> None:
        if isinstance(action, Say):
            log(action.level, action.event, **action.fields)
        elif isinstance(action, Trim):
            self._broker.trim(action.level)
        elif isinstance(action, Quiet):
            self._broker.drain(action.worker, action.pid)
        else:
            self._supervisord.do(action)

    def _check_groups(self) -> None:
        known = self._supervisord.groups_with_workers()
        if known is not None:
            check_groups(self._settings, known)
            self._checked = True


def _answer(words: bytes) -> None:
    """Write to supervisord; the protocol allows nothing else on stdout."""
    while words:
        words = words[os.write(1, words) :]
