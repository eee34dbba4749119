"""What operators and the guard of this machine want of workers: draining, giving memory back, pausing lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core.guard import GUARD_LEASE_S
from mlx_mesh_broker.core.lifecycle import WorkerState
from mlx_mesh_broker.core.liveness import GUARD, OPERATOR
from mlx_mesh_wire.messages import Lane, Quiet, Trim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Worker
    from mlx_mesh_broker.core.events import Drain, GuardTold, TrimWorkers
    from mlx_mesh_broker.core.liveness import Liveness
    from mlx_mesh_broker.core.state import State

_LOWEST = {"": Lane.BULK, "bulk": Lane.STANDARD, "standard": Lane.INTERACTIVE}


class Supervision:
    """Carries out what comes by the control socket."""

    def __init__(self, state: State, dispatcher: Dispatcher, liveness: Liveness) -> None:
        self._state = state
        self._dispatcher = dispatcher
        self._liveness = liveness

    def drain(self, event: Drain) -> None:
        """Drain workers, or have them serve again."""
        for worker in self._named(event.name):
            if not _meant(worker, event):
                continue
            self._state.to_worker(worker, Quiet(event.on))
            if event.on:
                self._liveness.drain(worker, event.by)
            else:
                self._liveness.resume(worker)

    def trim(self, event: TrimWorkers) -> None:
        """Ask local workers for memory; those elsewhere have a guard of their own."""
        for worker in self._named(event.name):
            if not worker.remote:
                self._state.to_worker(worker, Trim(event.level))

    def told(self, event: GuardTold) -> None:
        """Keep the guard's report, and pause what it wants paused, for as long as it holds."""
        state, guard = self._state, self._state.guard
        if guard.report is None:
            state.log("info", "guard_joined", pid=event.report.pid)
        guard.report = event.report
        guard.told_at = state.now
        if guard.lease is None:
            guard.lease = state.alarm(GUARD_LEASE_S, self._expire)
        else:
            state.timers.set(guard.lease, state.now + GUARD_LEASE_S, state.now)
        self._admit(_LOWEST[event.pause])

    def held_up(self, seconds: float) -> None:
        """Do not take reports for missing that could not be read."""
        state, guard = self._state, self._state.guard
        if guard.lease is not None:
            guard.told_at = min(guard.told_at + seconds, state.now)
            state.timers.set(guard.lease, guard.told_at + GUARD_LEASE_S, state.now)

    def _named(self, name: str) -> Iterator[Worker]:
        return (worker for worker in list(self._state.instances.values()) if name in ("*", worker.info.name))

    def _expire(self) -> None:
        guard = self._state.guard
        guard.lease = guard.report = None
        self._state.log("warning", "guard_silent", seconds=GUARD_LEASE_S)
        self._admit(Lane.BULK)

    def _admit(self, lowest: Lane) -> None:
        """Give local workers new jobs of this lane and of those above it."""
        state, guard = self._state, self._state.guard
        if lowest is guard.lowest:
            return
        if guard.lowest is Lane.BULK:
            guard.paused_at = state.now
        guard.lowest = lowest
        if lowest is Lane.BULK:
            state.log("info", "admission_resumed", seconds=round(state.now - guard.paused_at, 3))
        else:
            state.log("warning", "admission_paused", lane=guard.paused)
        workers = list(state.instances.values())
        for worker in workers:
            if not worker.remote:
                worker.lowest = lowest
                self._dispatcher.changed(worker)
        for worker in workers:
            if worker.state is WorkerState.READY:
                self._dispatcher.feed(worker)


def _meant(worker: Worker, event: Drain) -> bool:
    """Whether it is this one of the workers with a name that is to drain, or to serve again."""
    if worker.remote and (event.by == GUARD or event.pid):
        return False  # Another machine has workers of the same names: one would stay drained, with nobody to end it.
    if event.pid not in (0, worker.info.pid):
        return False
    return event.on or event.by == OPERATOR or worker.drained_by != OPERATOR
