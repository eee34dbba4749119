"""What workers say of their jobs: chunks, results, errors, what they give back unbegun, and what they still hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core.answers import Failure, failure
from mlx_mesh_broker.core.entities import PROGRESS_CHUNKS
from mlx_mesh_broker.core.state import Holding
from mlx_mesh_wire.messages import Cancel, Chunk, Credit, Error, Final, Return

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from mlx_mesh_broker.core.answers import Answers
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Request, Worker
    from mlx_mesh_broker.core.liveness import Liveness
    from mlx_mesh_broker.core.state import State


HOLDINGS_MAX = 65_536
HOLDING_S = 30.0
"""How many jobs of an earlier epoch are remembered, and for how long: workers keep their results as long."""


class Jobs:
    """Turns what a worker says of a job into what its client hears."""

    def __init__(self, state: State, answers: Answers, dispatcher: Dispatcher, liveness: Liveness) -> None:
        self._state = state
        self._answers = answers
        self._dispatcher = dispatcher
        self._liveness = liveness

    def final(self, worker: Worker, message: Final, frames: Sequence[bytes]) -> None:
        """Answer with the result."""
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

    def error(self, worker: Worker, message: Error, frames: Sequence[bytes]) -> None:
        """Answer with the error, unless it concerns another request or the connection."""
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

    def chunk(self, worker: Worker, message: Chunk, frames: Sequence[bytes]) -> None:
        """Pass on a chunk that the reader does not have."""
        state = self._state
        request = worker.jobs.get(message.id)
        if request is None or not request.stream:
            state.metrics.counts["late_answers"] += 1
            return
        worker.progressed = state.now
        if message.seq < request.next_seq:
            # A second attempt starts from the beginning; the reader has these already.
            if request.lent and message.seq == request.next_seq - 1:
                request.lent = False
            else:
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

    def returned(self, worker: Worker, message: Return, frames: Sequence[bytes]) -> None:
        """Give the job to another worker."""
        request = worker.jobs.get(message.job_id)
        if request is None:
            self._state.metrics.counts["late_answers"] += 1
            return
        self._state.metrics.counts["returned"] += 1
        self._dispatcher.release(request)
        self._dispatcher.take_back(request)
        self._dispatcher.feed(worker)

    def reconcile(self, worker: Worker, held: Collection[tuple[bytes, int]]) -> None:
        """After a new connection: ask again for what the worker holds, and have the rest run.

        An answer may have been lost with the old connection; to a JOB that it knows the worker answers again. It keeps
        no chunks, so a stream is run again.
        """
        for job_id, request in list(worker.jobs.items()):
            if request.stream:
                self._state.to_worker(worker, Cancel(job_id))
            self._dispatcher.release(request)
            if not request.stream and (request.session.key, request.id) in held:
                self._dispatcher.send(request, worker, held=True)
            else:
                self._liveness.again(request)

    def adopt(self, worker: Worker, held: Collection[tuple[bytes, int]]) -> None:
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
