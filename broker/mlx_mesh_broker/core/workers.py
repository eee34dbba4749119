"""What workers say, and what is done about their silence, their stalls and their deaths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.actions import ToWorker, Unwatch, Watch
from mlx_mesh_broker.core.answers import Failure, failure
from mlx_mesh_broker.core.clients import welcome
from mlx_mesh_broker.core.complaints import Complaints
from mlx_mesh_broker.core.entities import PROGRESS_CHUNKS, Worker
from mlx_mesh_broker.core.lifecycle import Turn, WorkerState, next_state
from mlx_mesh_broker.core.state import Holding
from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import (
    Beat,
    Bye,
    Cancel,
    Chunk,
    Credit,
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
    from collections.abc import Callable, Iterable, Sequence

    from mlx_mesh_broker.core.answers import Answers
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Request
    from mlx_mesh_broker.core.events import BadWorkerMessage
    from mlx_mesh_broker.core.state import State

WORKERS_MAX = 4096
"""Worker processes known at once; the pools are measured up to a quarter of that."""

HOLDINGS_MAX = 65_536
HOLDING_S = 30.0
"""How many jobs of an earlier epoch are remembered, and for how long: workers keep their results as long."""

PENDING_MAX = 1024
"""Connections that said HELD and not yet READY."""


class Workers:
    """The backend's side of the core."""

    def __init__(self, state: State, answers: Answers, dispatcher: Dispatcher) -> None:
        self._state = state
        self._answers = answers
        self._dispatcher = dispatcher
        self._complain = Complaints(state, "worker_protocol_error", ToWorker).complain
        self._pending: dict[bytes, set[tuple[bytes, int]]] = {}
        self._on: dict[type, Callable[[Worker, Any, Sequence[bytes]], None]] = {
            Final: self._final,
            Chunk: self._chunk,
            Error: self._error,
            Return: self._return,
            Beat: self._beat,
            Quiet: self._quiet,
            Bye: self._bye,
            Ping: self._ping,
            Pong: self._pong,
        }

    def message(self, event: Any) -> None:
        """Handle a well-formed message."""
        route, message, frames = event
        kind = type(message)
        if kind is Ready or kind is Loading:
            self._register(route, message)
            return
        if kind is Held:
            self._held(route, message)
            return
        worker = self._state.workers.get(route)
        if worker is None:
            self._stranger(route, kind)
            return
        worker.heard = self._state.now
        if worker.state is WorkerState.SUSPECT:
            self.turn(worker, Turn.HEARD)
        handler = self._on.get(kind)
        if handler is None:
            self._complain(route, f"{kind.__name__} is not for workers to send")
        else:
            handler(worker, message, frames)

    def malformed(self, event: BadWorkerMessage) -> None:
        """Handle a message that could not be decoded."""
        self._state.metrics.counts["malformed_worker"] += 1
        self._complain(event.route, event.reason)

    def unreachable(self, route: bytes) -> None:
        """Give the worker no more: its connection is gone, its process perhaps too."""
        worker = self._state.workers.get(route)
        if worker is not None:
            self.turn(worker, Turn.MISSED)

    def exited(self, worker: Worker, running: frozenset[int] | None) -> None:
        """Run the work of a dead process elsewhere."""
        self._lose(worker, Turn.DIED, worker.jobs.keys() if running is None else running, "its process ended")

    def turn(self, worker: Worker, turn: Turn) -> None:
        """Change the worker's state by the table, and what follows from that."""
        before = worker.state
        worker.state = next_state(before, turn)
        if worker.state is before:
            return
        level = "warning" if worker.state in (WorkerState.SUSPECT, WorkerState.STALLED, WorkerState.LOST) else "info"
        self._state.log(level, "worker_" + worker.state.value, was=before.value, because=turn.value, **worker.summary())
        self._dispatcher.changed(worker)
        for queue in worker.queues:
            self._dispatcher.check_gone(queue)
            self._state.settle(queue)
        if worker.state is WorkerState.READY:
            self._dispatcher.feed(worker)

    def _stranger(self, route: bytes, kind: type) -> None:
        if kind is not Bye:
            self._state.metrics.counts["resets"] += 1
            self._state.out.append(ToWorker(route, Reset(self._state.epoch), ()))

    def _held(self, route: bytes, message: Held) -> None:
        if len(self._pending) >= PENDING_MAX and route not in self._pending:
            self._pending.pop(next(iter(self._pending)))
        held = self._pending.setdefault(route, set())
        if len(held) < limits.SLOTS_MAX:
            held.update((session, request_id) for session, request_id, _ in message.jobs)  # type: ignore[misc]

    def _register(self, route: bytes, message: Ready | Loading) -> None:
        state = self._state
        if message.major != limits.PROTOCOL_MAJOR:
            reason = f"this broker speaks protocol {limits.PROTOCOL_MAJOR}, the worker speaks {message.major}"
            self._complain(route, reason)
            state.out.append(ToWorker(route, Bye(reason), ()))
            return
        held = self._pending.pop(route, set())
        worker = state.instances.get(message.instance)
        former = state.workers.get(route)
        if former is not None and former is not worker:
            self._lose(former, Turn.BYE, (), "another worker took over its connection")
        if worker is None:
            if len(state.instances) >= WORKERS_MAX:
                self._complain(route, f"{WORKERS_MAX} workers are connected already")
                return
            worker = self._enlist(route, message)
        moved = worker.route != route
        if moved:
            state.workers.pop(worker.route, None)
            worker.route = route
            state.workers[route] = worker
        # Before any JOB: it tells the worker that the ids of this connection are those of this epoch.
        state.to_worker(worker, welcome(state))
        if moved:
            self._reconcile(worker, held)
        worker.heard = state.now
        self._describe(worker, message)
        self._join_queues(worker)
        if type(message) is Ready:
            self._adopt(worker, held)
        self.turn(worker, Turn.READY if type(message) is Ready else Turn.LOAD)
        if worker.state is WorkerState.READY:
            self._dispatcher.feed(worker)  # It may serve more than before without having changed its state.

    def _describe(self, worker: Worker, message: Ready | Loading) -> None:
        state = self._state
        was, kind = worker.computes, worker.kind
        worker.describe(message, state.config.prefetch)
        state.offer(kind, worker.kind)
        if was != worker.computes and worker.state is not WorkerState.LOADING:
            for queue in worker.queues:
                state.settle(queue, anew=True)

    def _enlist(self, route: bytes, message: Ready | Loading) -> Worker:
        state = self._state
        worker = Worker(route, message, state.config.prefetch, state.now)
        worker.remote = message.machine != state.machine
        state.instances[message.instance] = worker
        state.workers[route] = worker
        state.offer(None, worker.kind)
        state.out.append(Watch(message.instance, message.machine, message.pid, message.pid_start))
        self._watch(worker)
        state.log("info", "worker_joined", ops=",".join(message.ops), slots=message.slots, **worker.summary())
        return worker

    def _join_queues(self, worker: Worker) -> None:
        for queue in self._state.queues.values():
            serves = worker.serves(*queue.key)
            if serves and queue not in worker.queues:
                self._state.join(worker, queue)
            elif not serves and queue in worker.queues:
                worker.queues.remove(queue)
                queue.pool.workers.discard(worker)
                self._dispatcher.check_gone(queue)
                self._state.settle(queue)
        for op in worker.info.ops:
            queue_or_none = self._state.queue_for(op, "")
            if queue_or_none is not None:
                self._dispatcher.check_gone(queue_or_none)
        self._dispatcher.changed(worker)

    def _reconcile(self, worker: Worker, held: set[tuple[bytes, int]]) -> None:
        """After a new connection: ask again for what the worker holds, and have the rest run.

        An answer may have been lost with the old connection; to a JOB that it knows the worker answers again. It keeps
        no chunks, so a stream is run again.
        """
        for job_id, request in list(worker.jobs.items()):
            if request.stream:
                self._state.to_worker(worker, Cancel(job_id))
            self._dispatcher.release(request)
            if not request.stream and (request.session.key, request.id) in held:
                self._dispatcher.send(request, worker)
            else:
                self._again(request)

    def _adopt(self, worker: Worker, held: set[tuple[bytes, int]]) -> None:
        """Remember what the worker brought along, and bind requests that wait for just that."""
        state = self._state
        for place in held:
            session = state.sessions.get(place[0])
            request = session.outstanding.get(place[1]) if session else None
            if state.parked.pop(place, None) is not None and request is not None:
                self._dispatcher.send(request, worker)
            elif request is not None and request.waiting and request.queue is not None:
                request.queue.remove(request)
                self._dispatcher.send(request, worker)
            elif request is None and len(state.holdings) < HOLDINGS_MAX:
                state.holdings[place] = Holding(worker, state.now + HOLDING_S)

    def _final(self, worker: Worker, message: Final, frames: Sequence[bytes]) -> None:
        request = worker.jobs.get(message.id)
        if request is None:
            self._state.metrics.counts["late_answers"] += 1
            return
        if message.chunks > request.next_seq:
            self._dispatcher.drop(request, failure("INTERNAL", f"the worker skipped chunk {request.next_seq}"))
            return
        worker.progressed = self._state.now
        worker.served += 1
        self._dispatcher.release(request)
        self._answers.result(request, frames, message.service_us)
        self._dispatcher.feed(worker)

    def _error(self, worker: Worker, message: Error, frames: Sequence[bytes]) -> None:
        request = worker.jobs.get(message.id)
        if request is None:
            self._state.metrics.counts["late_answers" if message.id else "worker_complaints"] += 1
            return
        worker.progressed = self._state.now
        # What has reached a worker may have had its effects.
        retryable = message.retryable and not request.at_most_once
        why = Failure(message.code, message.message, retryable, message.retry_after_ms, frames)
        if message.code == "DEADLINE_EXCEEDED" and request.due > request.job_due:
            # It was the deadline of another request, whose computation this one has taken over.
            self._dispatcher.release(request)
            self._dispatcher.take_back(request)
        elif message.code in ("DEADLINE_EXCEEDED", "CANCELLED"):
            # These befell this request alone; whoever shares its computation has a time of its own.
            followers, request.followers = request.followers or (), None
            self._dispatcher.release(request)
            self._answers.failed(request, why)
            self._restart(followers)
        else:
            self._dispatcher.release(request)
            self._answers.failed(request, why)
        self._dispatcher.feed(worker)

    def _restart(self, followers: Iterable[Request]) -> None:
        for follower in followers:
            follower.leader = follower.key = None
            self._dispatcher.place(follower, self._state.belongs(follower))

    def _chunk(self, worker: Worker, message: Chunk, frames: Sequence[bytes]) -> None:
        state = self._state
        request = worker.jobs.get(message.id)
        if request is None or not request.stream:
            state.metrics.counts["late_answers"] += 1
            return
        worker.progressed = state.now
        if message.seq < request.next_seq:
            # A second attempt starts from the beginning; the reader has these already.
            state.to_worker(worker, Credit(message.id, 1))
            return
        if message.seq > request.next_seq:
            self._dispatcher.drop(request, failure("INTERNAL", f"the worker skipped chunk {request.next_seq}"))
            return
        metrics = request.queue.metrics if request.queue else state.metrics.op(("", ""))
        if request.next_seq == 0:
            metrics.first_chunk.observe(state.now - request.arrived)
        metrics.chunks += 1
        request.next_seq += 1
        if request.next_seq - request.first_seq == PROGRESS_CHUNKS:
            request.deaths = request.fruitless = 0
        request.credit -= 1
        if request.credit <= 0:
            state.metrics.counts["credit_overruns"] += request.credit < 0
            request.credit = 0
            request.starved_at = request.starved_at or state.now
        state.to_client(request.session, Chunk(request.id, message.seq), frames)

    def _return(self, worker: Worker, message: Return, frames: Sequence[bytes]) -> None:
        request = worker.jobs.get(message.job_id)
        if request is None:
            self._state.metrics.counts["late_answers"] += 1
            return
        self._state.metrics.counts["returned"] += 1
        self._dispatcher.release(request)
        self._dispatcher.take_back(request)
        self._dispatcher.feed(worker)

    def _beat(self, worker: Worker, message: Beat, frames: Sequence[bytes]) -> None:
        worker.beat = message
        if message.progress != worker.progress:
            worker.progress = message.progress
            worker.progressed = self._state.now
            if worker.state is WorkerState.STALLED:
                self.turn(worker, Turn.MOVED)
        warm = frozenset(message.warm)
        if warm != worker.warm:
            worker.warm = warm
            self._dispatcher.changed(worker)

    def _quiet(self, worker: Worker, message: Quiet, frames: Sequence[bytes]) -> None:
        self.turn(worker, Turn.QUIET if message.on else Turn.RESUME)

    def _bye(self, worker: Worker, message: Bye, frames: Sequence[bytes]) -> None:
        self._lose(worker, Turn.BYE, (), message.reason or "it left")

    def _ping(self, worker: Worker, message: Ping, frames: Sequence[bytes]) -> None:
        self._state.to_worker(worker, Pong(message.nonce))

    def _pong(self, worker: Worker, message: Pong, frames: Sequence[bytes]) -> None:
        """Having been heard is all that counts."""

    def _watch(self, worker: Worker) -> None:
        worker.alarm = self._state.alarm(self._state.config.beat_s, lambda: self._check(worker))

    def _check(self, worker: Worker) -> None:
        """Judge a worker by its silence and its progress, once a beat."""
        state, config = self._state, self._state.config
        worker.alarm = None
        silence = state.now - worker.heard
        if silence >= (config.lost_remote_s if worker.remote else config.lost_s):
            self._lose(worker, Turn.SILENT, self._blamed(worker), f"silent for {silence:.1f} s")
            return
        if worker.state is WorkerState.LOADING:
            cap = min(worker.info.load_max_ms / 1000 or config.load_max_s, config.load_max_s)
            if state.now - worker.joined >= cap:
                self._lose(worker, Turn.SILENT, (), f"loading for over {cap:g} s")
                return
        elif silence >= config.suspect_s:
            self.turn(worker, Turn.MISSED)
        if worker.jobs and state.now - worker.progressed >= config.stall_s:
            self._stalled(worker)
        self._watch(worker)

    def _stalled(self, worker: Worker) -> None:
        self._state.metrics.counts["workers_stalled"] += 1
        self.turn(worker, Turn.STUCK)
        blamed = self._blamed(worker)
        jobs = list(worker.jobs.items())
        for job_id, request in jobs:
            self._state.to_worker(worker, Cancel(job_id))
            self._dispatcher.release(request)
        for job_id, request in jobs:
            self._again(request, died=job_id in blamed)

    def _blamed(self, worker: Worker) -> frozenset[int]:
        """Return the jobs that were being computed as of the last beat; all that it held, if it named none."""
        running = frozenset(worker.beat.running) & worker.jobs.keys() if worker.beat else frozenset()
        return running or frozenset(worker.jobs)

    def _lose(self, worker: Worker, turn: Turn, running: Iterable[int], reason: str) -> None:
        state = self._state
        blamed = frozenset(running)
        del state.instances[worker.info.instance]
        del state.workers[worker.route]
        for queue in worker.queues:
            queue.pool.workers.discard(worker)
        state.offer(worker.kind, None)
        self.turn(worker, turn)
        if worker.alarm is not None:
            state.timers.remove(worker.alarm)
        if turn is not Turn.BYE:
            state.metrics.counts["workers_lost"] += 1
        state.out.append(Unwatch(worker.info.instance))
        state.log("info", "worker_gone", reason=reason, held=len(worker.jobs), blamed=len(blamed), **worker.summary())
        jobs, worker.jobs = worker.jobs, {}
        for job_id, request in jobs.items():
            request.worker = None
            self._again(request, died=job_id in blamed)
        for place in [place for place, holding in state.holdings.items() if holding.worker is worker]:
            del state.holdings[place]

    def _again(self, request: Request, *, died: bool = False) -> None:
        """Run a request once more, unless it must not be: it was to run once, or it has cost too many workers."""
        state = self._state
        request.deaths += died
        if request.deaths >= state.config.deaths_max:
            state.metrics.counts["poisoned"] += 1
            state.quarantine.add(request, state.now)
            state.log("error", "request_quarantined", op=request.op, client=request.session.name, request=request.id)
            text = f"{request.deaths} workers died while they computed this request; it is quarantined"
            self._answers.failed(request, failure("POISON_REQUEST", text))
        elif request.at_most_once:
            text = "the worker was lost after it may have started; at_most_once forbids to run the request again"
            self._answers.failed(request, failure("WORKER_LOST", text))
        else:
            self._dispatcher.take_back(request)

    def expire_holdings(self) -> None:
        """Forget what workers brought along and nobody asked for; called every now and then."""
        state = self._state
        for place in [place for place, holding in state.holdings.items() if holding.until <= state.now]:
            del state.holdings[place]

    def expire_parked(self) -> None:
        """End the requests that must not run again and whose workers have not come back in time."""
        for request in list(self._state.parked.values()):
            text = "no worker holds this request, and at_most_once forbids to run it again"
            self._dispatcher.drop(request, failure("WORKER_LOST", text))
