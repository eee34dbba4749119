"""Requests to workers: queueing, late binding, and taking jobs back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core.answers import failure
from mlx_mesh_broker.core.entities import BULK
from mlx_mesh_broker.core.lifecycle import COMING, WorkerState
from mlx_mesh_broker.core.nobody import no_worker
from mlx_mesh_broker.core.state import AFFINITY_MAX
from mlx_mesh_broker.core.streams import ask, lacks_state
from mlx_mesh_wire.messages import Cancel, Flag, Job

if TYPE_CHECKING:
    from mlx_mesh_broker.core.answers import Answers, Failure
    from mlx_mesh_broker.core.entities import Request, Worker
    from mlx_mesh_broker.core.queues import Queue
    from mlx_mesh_broker.core.state import State


class Dispatcher:
    """Binds a request to a worker as late as possible: when one has a free slot."""

    def __init__(self, state: State, answers: Answers) -> None:
        self._state = state
        self._answers = answers

    def place(self, request: Request, queue: Queue) -> None:
        """Send the request to a worker with room, or queue it behind those that wait."""
        request.queue = queue
        worker = None if queue.count else self._choose(queue, request)
        if worker is not None and worker.room(request.lane) > 0:
            self.send(request, worker)
            return
        queue.push(request)
        if queue.gone_at is not None:
            self._await_workers(queue)
        else:
            self.pump(queue)

    def send(self, request: Request, worker: Worker, *, held: bool = False) -> None:
        """Make a job of the request and give it to the worker; ``held`` if that said that it has it already."""
        state = self._state
        now = state.now
        job_id = state.stamp()
        request.worker = worker
        request.job_id = job_id
        request.job_due = request.due
        request.attempts += 1
        request.fruitless += 1
        request.first_seq = request.next_seq
        request.dispatched = now
        if not worker.jobs:
            worker.progressed = now
        worker.jobs[job_id] = request
        worker.bulk += request.lane == BULK
        worker.used = job_id
        self.changed(worker)
        if request.affinity:
            self._remember(request.affinity, worker)
        flags = request.flags | Flag.ALONE if request.deaths else request.flags
        if held:
            flags |= Flag.RESEND  # If it has forgotten it since, it does not begin what must not run again.
        frames, window, seen = request.frames, 0, 0
        if request.stream:
            # Of one that begins anew, each chunk that the reader has brings its credit back.
            window = max(1, request.credit)  # A window of 0 would say that it is no stream.
            request.lent = not request.credit
            if request.kept is not None:
                state.metrics.counts["resumed"] += 1
                flags |= Flag.RESUMED
                window, seen = request.credit, request.kept.seen
                request.lent = False
                frames = [*frames, request.kept.data]
        remaining_ms = max(0, int((request.due - now) * 1000))
        state.to_worker(
            worker,
            Job(
                job_id,
                request.attempts,
                request.session.key,
                request.id,
                request.op,
                request.model,
                request.lane,
                remaining_ms,
                flags,
                window,
                request.affinity,
                request.traceparent,
                seen,
            ),
            frames,
        )

    def changed(self, worker: Worker) -> None:
        """Tell the pools that a worker's load, state or models changed."""
        worker.version = self._state.stamp()
        for queue in worker.queues:
            queue.pool.stale.add(worker)

    def release(self, request: Request) -> Worker:
        """Take the request off its worker, whose slot becomes free; call :meth:`feed` once it is answered."""
        worker = request.worker
        assert worker is not None  # noqa: S101  callers have looked
        del worker.jobs[request.job_id]
        worker.bulk -= request.lane == BULK
        request.worker = None
        self.changed(worker)
        return worker

    def feed(self, worker: Worker) -> None:
        """Give the worker what waits for it, its queues in turn."""
        queues = worker.queues
        for _ in range(len(queues)):
            worker.cursor = (worker.cursor + 1) % len(queues)
            queue = queues[worker.cursor]
            if queue.count:
                self.pump(queue)
                self._top_up(queue, worker)
                if len(worker.jobs) >= worker.capacity:
                    return

    def pump(self, queue: Queue) -> None:
        """Dispatch from the queue while a worker has room."""
        while queue.count:
            best = queue.pool.best()
            if best is None:
                return
            request = queue.pop(best.takes())
            if request is None:
                return
            self.send(request, self._choose(queue, request) or best)

    def _top_up(self, queue: Queue, worker: Worker) -> None:
        """Give a worker the bulk work that waits because the one with the fewest jobs has no places for such."""
        while queue.count and worker.state is WorkerState.READY and worker.room(BULK) > 0:
            request = queue.pop()
            assert request is not None  # noqa: S101  it counts its requests
            self.send(request, worker)

    def take_back(self, request: Request) -> None:
        """Have a released request run again; a stream whose reader has more than is known here waits for its client."""
        if request.fruitless >= self._state.config.attempts_max:
            why = failure("WORKER_LOST", f"given to {request.fruitless} workers, none of which got on with it")
            self._answers.failed(request, why)
        elif lacks_state(request):
            ask(self._state, request)
        else:
            self.requeue(request)

    def requeue(self, request: Request) -> None:
        """Queue a released request again; it has waited before, so it goes first."""
        queue = self._state.belongs(request)
        self._state.metrics.counts["requeued"] += 1
        # A suspect is tried at once: the longer it waits, the likelier an unrelated death is laid on it.
        refuge = queue.pool.refuge() if request.deaths else None
        if refuge is not None:
            self.send(request, refuge)
            return
        queue.push(request)
        if queue.gone_at is None:
            self.pump(queue)
        else:
            self._await_workers(queue)

    def drop(self, request: Request, why: Failure) -> None:
        """End a request wherever it is; if others share its computation, one of them takes it over."""
        self._withdraw(request)
        self._answers.failed_alone(request, why)

    def told(self, request: Request, outcome: str) -> None:
        """End a request whose client is told by other means."""
        self._withdraw(request)
        self._answers.told(request, outcome)

    def fail(self, request: Request, why: Failure) -> None:
        """End a released request."""
        self._answers.failed(request, why)

    def _withdraw(self, request: Request) -> None:
        state = self._state
        if request.leader is not None:
            assert request.leader.followers is not None  # noqa: S101  it follows
            del request.leader.followers[request]
            return
        if state.parked.pop((request.session.key, request.id), None) is request:
            return
        if request in state.asked:
            del state.asked[request]
            return
        # The others wait behind it, so it must not be in a lane that is paused, or has to wait longer, than theirs.
        heir = min(request.followers, key=lambda each: each.lane) if request.followers else None
        if heir is not None:
            self._inherit(request, heir)
        elif request.key is not None and state.flights.get(request.key) is request:
            del state.flights[request.key]
        if request.waiting:
            assert request.queue is not None  # noqa: S101  it waits there
            request.queue.remove(request)
            if heir is not None:
                self.place(heir, request.queue)
        else:
            worker = request.worker
            assert worker is not None  # noqa: S101  it waits nowhere, so it runs
            if heir is not None:
                worker.jobs[request.job_id] = heir
                worker.bulk += (heir.lane == BULK) - (request.lane == BULK)
                heir.worker, heir.job_id, heir.job_due, request.worker = worker, request.job_id, request.job_due, None
                if request.lane == BULK != heir.lane:
                    self.feed(worker)  # One of the places for bulk work is free now.
                return
            state.to_worker(worker, Cancel(request.job_id))
            self.release(request)
            self.feed(worker)

    def _inherit(self, request: Request, heir: Request) -> None:
        assert request.key is not None  # noqa: S101  only shared requests have followers
        assert request.followers is not None  # noqa: S101  it has this one
        del request.followers[heir]
        heir.leader = None
        heir.queue = request.queue
        heir.followers, request.followers = request.followers, None
        heir.attempts, heir.deaths, heir.dispatched = request.attempts, request.deaths, request.dispatched
        heir.fruitless = request.fruitless
        for follower in heir.followers or ():
            follower.leader = heir
        self._state.flights[request.key] = heir

    def check_gone(self, queue: Queue) -> None:
        """Note whether work may still wait for this queue's workers; pumps nothing."""
        coming = any(worker.state in COMING for worker in queue.pool.workers)
        if coming:
            queue.gone_at = None
            if queue.alarm is not None:
                self._state.timers.remove(queue.alarm)
                queue.alarm = None
        elif queue.gone_at is None:
            queue.gone_at = self._state.now
            if queue.count:
                self._await_workers(queue)

    def may_wait(self, queue: Queue, request: Request) -> bool:
        """Whether a request may wait in a queue whose workers are all gone."""
        if queue.gone_at is None or request.flags & Flag.WAIT_FOR_READY:
            return True
        state = self._state
        if state.now < queue.gone_at + state.config.rejoin_s:
            return True
        return state.workers_are_expected(request)

    def _await_workers(self, queue: Queue) -> None:
        if queue.alarm is None:
            queue.alarm = self._state.alarm(self._state.config.rejoin_s, lambda: self._give_up(queue))

    def _give_up(self, queue: Queue) -> None:
        queue.alarm = None
        for request in [each for each in queue if not self.may_wait(queue, each)]:
            why = no_worker(self._state, request.op, request.model)
            for follower in [each for each in request.followers or () if not self.may_wait(queue, each)]:
                self.drop(follower, why)
            self.drop(request, why)  # Of those that share its computation, one that may wait takes it over.

    def _choose(self, queue: Queue, request: Request) -> Worker | None:
        if not request.affinity:
            worker = queue.pool.best()
        else:
            preferred = self._state.affinity.get(request.affinity)
            if preferred is not None and preferred.state is not WorkerState.READY:
                preferred = None
            worker = queue.pool.choose(preferred, request.lane)
        if request.lane == BULK and worker is not None and worker.room(BULK) <= 0:
            return queue.pool.roomy(BULK)
        return worker

    def _remember(self, affinity: bytes, worker: Worker) -> None:
        table = self._state.affinity
        table[affinity] = worker
        table.move_to_end(affinity)
        if len(table) > AFFINITY_MAX:
            table.popitem(last=False)
