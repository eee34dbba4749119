"""Whether a request is taken in: duplicates, caps, quarantine, cache, shared computation, and who could compute it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from mlx_mesh_broker.core import state as tables
from mlx_mesh_broker.core.answers import failure
from mlx_mesh_broker.core.entities import Request
from mlx_mesh_broker.core.keyed import refusal
from mlx_mesh_broker.core.nobody import no_worker
from mlx_mesh_broker.core.overload import RETRY_MAX_MS, Overload
from mlx_mesh_broker.core.sharing import HASHED_MAX_BYTES, content_key
from mlx_mesh_broker.core.streams import Streams, lacks_state
from mlx_mesh_wire.messages import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_broker.core.answers import Answers, Failure
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Session
    from mlx_mesh_broker.core.queues import Queue
    from mlx_mesh_broker.core.state import State
    from mlx_mesh_wire import messages

_AT_MOST_ONCE, _RESEND, _UNSHARED = Flag.AT_MOST_ONCE, Flag.RESEND, Flag.AT_MOST_ONCE | Flag.FRESH
"""By names of this module: Python looks up those of a class slowly, and every request passes here."""


class Admission:
    """Takes requests in or refuses them at once."""

    def __init__(self, state: State, answers: Answers, dispatcher: Dispatcher) -> None:
        self._state = state
        self._answers = answers
        self._dispatcher = dispatcher
        self._streams = Streams(state, dispatcher)
        self._overload = Overload(state, dispatcher)

    def request(self, session: Session, message: messages.Request, frames: Sequence[bytes]) -> None:
        """Handle a REQUEST of a known client."""
        state = self._state
        known = session.outstanding.get(message.request_id)
        if known is not None:
            state.metrics.counts["duplicates"] += 1
            if known.stream:
                self._streams.resend(known, message, frames)
            return
        if session.told and message.flags & _RESEND and message.request_id in session.told:
            state.metrics.counts["duplicates"] += 1  # It was on its way when the answer that was held went out.
            return
        request = Request(session, message, frames, state.now)
        why = self._refusal(request)
        queue = None
        if why is None:
            queue = self._queue(request)
            why = self._overload.of_queue(queue, request) if queue is not None else self._nobody(request)
        if why is not None:
            metrics = state.metrics.refused(request.op) if queue is None else queue.metrics
            self._answers.refuse(session, request.id, why, metrics, request.lane)
            return
        assert queue is not None  # noqa: S101  or there would be a reason
        request.queue = queue
        session.outstanding[request.id] = request
        if session.account is not None:
            session.account.outstanding += 1
        if request.charged:
            session.large_bytes += request.charged
            state.large_bytes += request.charged
        state.metrics.accepted += 1
        state.timers.add(request, state.now)
        if (state.holdings or request.flags & _AT_MOST_ONCE) and self._adopted(request):
            return
        if not (queue.source and self._shared(request, queue)):
            self._dispatcher.place(request, queue)

    def _refusal(self, request: Request) -> Failure | None:
        state = self._state
        if not request.frames:
            return failure("INVALID_REQUEST", "the request has no body")
        if request.due <= state.now:
            return failure("DEADLINE_EXCEEDED", "remaining_ms is 0: the request had expired when it arrived")
        session = request.session
        cap = state.config.client_max_request_bytes
        too_large = request.charged and session.large_bytes + request.charged > cap
        if too_large or len(session.outstanding) >= state.config.client_max_outstanding:
            return self._overload.of_client(request)
        if session.account is not None and (why := refusal(state, session.account, request)) is not None:
            return why
        if state.quarantine and state.quarantine.holds(request, state.now):
            state.metrics.counts["quarantined"] += 1
            return failure("POISON_REQUEST", "workers died while they computed this very body; it is quarantined")
        return self._unresumable(request) if request.flags & _RESEND else None

    def _unresumable(self, request: Request) -> Failure | None:
        """Say why a request that an earlier broker may have had must not be run again, or cannot go on."""
        state = self._state
        if request.at_most_once and not state.is_early() and not self._holding(request):
            return failure("WORKER_LOST", "no worker holds this request, and at_most_once forbids to run it again")
        if lacks_state(request):
            text = f"the reader has {request.next_seq} chunks, but the REQUEST that says so came without their state"
            return failure("INVALID_REQUEST", text)
        return None

    def _queue(self, request: Request) -> Queue | None:
        state = self._state
        op, model = request.op, request.model
        queue = state.queues.get((op, model)) or state.home(op, model)
        if queue is None:
            served = state.catalogue.serves(op, model)
            if not (served or state.workers_are_expected(request) or request.flags & Flag.WAIT_FOR_READY):
                return None
            queue = state.queue_for(op, state.catalogue.shelf(op, model))
        return queue if queue is not None and self._dispatcher.may_wait(queue, request) else None

    def _nobody(self, request: Request) -> Failure:
        if self._state.home(request.op, request.model) is None and len(self._state.queues) >= tables.QUEUES_MAX:
            return failure(
                "OVERLOADED",
                f"{tables.QUEUES_MAX} pairs of op and model have work waiting",
                retry_after_ms=RETRY_MAX_MS,
            )
        return no_worker(self._state, request.op, request.model)

    def _holding(self, request: Request) -> bool:
        return (request.session.key, request.id) in self._state.holdings

    def _adopted(self, request: Request) -> bool:
        """Bind a request to the worker that brought it along from an earlier epoch; True if that settles it."""
        state = self._state
        place = (request.session.key, request.id)
        holding = state.holdings.pop(place, None)
        if holding is not None:
            self._dispatcher.send(request, holding.worker)
            return True
        if request.at_most_once and request.flags & _RESEND:
            state.parked[place] = request
            return True
        return False

    def _shared(self, request: Request, queue: Queue) -> bool:
        """Answer from the cache or join an equal request under way; True if that settles it."""
        if request.stream or request.flags & _UNSHARED or request.size > HASHED_MAX_BYTES:
            return False
        state = self._state
        key = queue.source, content_key(request.op, request.model, request.frames)
        frames = state.cache.get(key, state.now)
        if frames is not None:
            state.metrics.counts["cache_hits"] += 1
            self._answers.cached(request, frames)
            return True
        state.metrics.counts["cache_misses"] += 1
        leader = state.flights.get(key) if state.config.single_flight else None
        # Behind a leader that still waits in a lower lane this request would wait longer than alone.
        if leader is not None and (not leader.waiting or leader.lane <= request.lane):
            request.leader = leader
            request.key = key
            if leader.followers is None:
                leader.followers = OrderedDict()
            leader.followers[request] = None
            return True
        request.key = key
        state.flights.setdefault(key, request)
        return False
