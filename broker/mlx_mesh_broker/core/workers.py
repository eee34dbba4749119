"""What workers say: who they are, what they serve, and how they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.actions import ToWorker, Watch
from mlx_mesh_broker.core.complaints import Complaints
from mlx_mesh_broker.core.entities import Worker
from mlx_mesh_broker.core.keyed import Doorman, beyond
from mlx_mesh_broker.core.lifecycle import Turn, WorkerState
from mlx_mesh_broker.core.liveness import ITSELF
from mlx_mesh_broker.core.quotas import Role
from mlx_mesh_broker.core.sessions import welcome
from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import (
    Beat,
    Bye,
    Chunk,
    Error,
    Final,
    Held,
    Loading,
    Ping,
    Pong,
    Quiet,
    Ready,
    Reset,
    Return,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.events import BadWorkerMessage
    from mlx_mesh_broker.core.jobs import Jobs
    from mlx_mesh_broker.core.liveness import Liveness
    from mlx_mesh_broker.core.quotas import Account, Holder
    from mlx_mesh_broker.core.state import State

WORKERS_MAX = 4096
"""Worker processes known at once; the pools are measured up to a quarter of that."""

PENDING_MAX = 1024
"""Connections that said HELD and not yet READY."""


def _same(one: Holder | None, other: Holder | None) -> bool:
    return one is other or (one is not None and other is not None and one.name == other.name)


class Workers:
    """The backend's side of the core."""

    def __init__(self, state: State, dispatcher: Dispatcher, liveness: Liveness, jobs: Jobs) -> None:
        self._state = state
        self._dispatcher = dispatcher
        self._liveness = liveness
        self._jobs = jobs
        unauthorized = Complaints(state, "worker_unauthorized", ToWorker, "UNAUTHORIZED")
        self._doorman = Doorman(state, Role.WORKER, ToWorker, unauthorized.complain)
        self._complain = Complaints(state, "worker_protocol_error", ToWorker).complain
        self._pending: dict[bytes, dict[tuple[bytes, int], None]] = {}
        self._on: dict[type, Callable[[Worker, Any, Sequence[bytes]], None]] = {
            Final: jobs.final,
            Chunk: jobs.chunk,
            Error: jobs.error,
            Return: jobs.returned,
            Beat: self._beat,
            Quiet: self._quiet,
            Bye: self._bye,
            Ping: self._ping,
            Pong: self._pong,
        }

    def message(self, event: Any) -> None:
        """Handle a well-formed message."""
        route, message, frames, holder = event
        if not self._doorman.admits(route, message, holder):
            return
        kind = type(message)
        if kind is Ready or kind is Loading:
            self._register(route, message, holder)
            return
        if kind is Held:
            self._held(route, message)
            return
        worker = self._state.workers.get(route)
        if worker is not None and worker.holder is not holder and not self._recognised(worker, message, holder):
            return
        if worker is None:
            self._stranger(route, kind)
            return
        worker.heard = self._state.now
        handler = self._on.get(kind)
        if handler is None:
            self._complain(route, f"{kind.__name__} is not for workers to send")
        else:
            handler(worker, message, frames)
        # Not before: what it says may be that it takes no more work.
        if worker.state is WorkerState.SUSPECT:
            self._liveness.turn(worker, Turn.HEARD)

    def malformed(self, event: BadWorkerMessage) -> None:
        """Handle a message that could not be decoded."""
        self._state.metrics.counts["malformed_worker"] += 1
        self._complain(event.route, event.reason)

    def _recognised(self, worker: Worker, message: Any, holder: Holder | None) -> bool:
        """Whether a message is the worker's own, and its key still allows what it serves; otherwise it is lost."""
        if not _same(worker.holder, holder):
            self._liveness.lose(worker, Turn.BYE, (), "the holder of another key has its connection")
            self._stranger(worker.route, type(message))
            return False
        worker.holder = holder
        self._doorman.account(holder)
        return self._allowed(worker.route, worker.info, holder)

    def _allowed(self, route: bytes, message: Ready | Loading, holder: Holder | None) -> bool:
        """Whether a key allows what a worker serves; otherwise that worker is told so, and gone."""
        why = beyond(holder, message.ops, message.models) if holder is not None else ""
        if not why:
            return True
        self._doorman.refuse(route, message, why)
        worker = self._state.workers.get(route)
        if worker is not None:
            self._liveness.lose(worker, Turn.BYE, (), why)
        return False

    def revoked(self, account: Account) -> int:
        """Part with the workers of a key that is not authorised any more; return how many there were."""
        own = [worker for worker in self._state.instances.values() if _same(worker.holder, account.holder)]
        for worker in own:
            self._liveness.lose(worker, Turn.BYE, (), "its key was revoked")
        return len(own)

    def _stranger(self, route: bytes, kind: type) -> None:
        if kind is not Bye:
            self._state.metrics.counts["resets"] += 1
            self._state.out.append(ToWorker(route, Reset(self._state.epoch), ()))

    def _held(self, route: bytes, message: Held) -> None:
        if len(self._pending) >= PENDING_MAX and route not in self._pending:
            self._pending.pop(next(iter(self._pending)))
        held = self._pending.setdefault(route, {})
        if len(held) < limits.SLOTS_MAX:
            held.update(((session, request_id), None) for session, request_id, _ in message.jobs)  # type: ignore[misc]

    def _register(self, route: bytes, message: Ready | Loading, holder: Holder | None) -> None:
        state = self._state
        if message.major != limits.PROTOCOL_MAJOR:
            reason = f"this broker speaks protocol {limits.PROTOCOL_MAJOR}, the worker speaks {message.major}"
            self._complain(route, reason)
            state.out.append(ToWorker(route, Bye(reason), ()))
            return
        held = self._pending.pop(route, {})
        worker = state.instances.get(message.instance)
        if worker is not None and not _same(worker.holder, holder):
            self._doorman.refuse(route, message, "this worker belongs to the holder of another key")
            return
        if not self._allowed(route, message, holder):
            return
        former = state.workers.get(route)
        if former is not None and former is not worker:
            self._liveness.lose(former, Turn.BYE, (), "another worker took over its connection")
        if worker is None:
            if len(state.instances) >= WORKERS_MAX:
                self._complain(route, f"{WORKERS_MAX} workers are connected already")
                return
            worker = self._enlist(route, message)
        self._doorman.account(holder)
        worker.holder = holder
        moved = worker.route != route
        if moved:
            state.workers.pop(worker.route, None)
            worker.route = route
            state.workers[route] = worker
        # Before any JOB: it tells the worker that the ids of this connection are those of this epoch.
        state.to_worker(worker, welcome(state))
        if moved:
            self._jobs.reconcile(worker, held)
        worker.heard = state.now
        self._describe(worker, message)
        self._join_queues(worker)
        if type(message) is Ready:
            self._jobs.adopt(worker, held)
        self._liveness.turn(worker, Turn.READY if type(message) is Ready else Turn.LOAD)
        if worker.state is WorkerState.READY:
            self._dispatcher.feed(worker)  # It may serve more than before without having changed its state.

    def _describe(self, worker: Worker, message: Ready | Loading) -> None:
        state = self._state
        was, kind = worker.computes, worker.kind
        if type(message) is Loading and type(worker.info) is Ready:
            worker.loading_since = state.now
        worker.describe(message, state.config.prefetch)
        state.roster.note(message.name, worker.kind)
        state.offer(kind, worker.kind)
        if was != worker.computes and worker.state is not WorkerState.LOADING:
            for queue in worker.queues:
                state.settle(queue, anew=True)

    def _enlist(self, route: bytes, message: Ready | Loading) -> Worker:
        state = self._state
        worker = Worker(route, message, state.config.prefetch, state.now)
        worker.remote = message.machine != state.machine
        if not worker.remote:
            worker.lowest = state.guard.lowest
        state.instances[message.instance] = worker
        state.workers[route] = worker
        state.offer(None, worker.kind)
        state.out.append(Watch(message.instance, message.machine, message.pid, message.pid_start))
        self._liveness.watch(worker)
        state.log("info", "worker_joined", ops=",".join(message.ops), slots=message.slots, **worker.summary())
        return worker

    def _join_queues(self, worker: Worker) -> None:
        for queue in self._state.queues.values():
            serves = worker.serves(*queue.key)
            if serves and queue not in worker.queues:
                self._state.join(worker, queue)
            elif not serves and queue in worker.queues:
                worker.queues.remove(queue)
                queue.pool.leave(worker)
                self._dispatcher.check_gone(queue)
                self._state.settle(queue)
        for op in worker.info.ops:
            queue_or_none = self._state.queue_for(op, "")
            if queue_or_none is not None:
                self._dispatcher.check_gone(queue_or_none)
        self._dispatcher.changed(worker)

    def _beat(self, worker: Worker, message: Beat, frames: Sequence[bytes]) -> None:
        worker.beat = message
        if message.progress != worker.progress:
            worker.progress = message.progress
            worker.progressed = self._state.now
            if worker.state is WorkerState.STALLED:
                self._liveness.turn(worker, Turn.MOVED)
        if worker.quiet and worker.drained_by == ITSELF and not message.draining:
            self._liveness.said_quiet(worker, False)
        warm = frozenset(message.warm)
        if warm != worker.warm:
            worker.warm = warm
            self._dispatcher.changed(worker)

    def _quiet(self, worker: Worker, message: Quiet, frames: Sequence[bytes]) -> None:
        self._liveness.said_quiet(worker, message.on)

    def _bye(self, worker: Worker, message: Bye, frames: Sequence[bytes]) -> None:
        self._liveness.lose(worker, Turn.BYE, (), message.reason or "it left")

    def _ping(self, worker: Worker, message: Ping, frames: Sequence[bytes]) -> None:
        self._state.to_worker(worker, Pong(message.nonce))

    def _pong(self, worker: Worker, message: Pong, frames: Sequence[bytes]) -> None:
        """Having been heard is all that counts."""
