"""Whether there is room for a request: caps by count and bytes, and who gives way to a higher lane."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from mlx_mesh_broker.core.answers import Failure, failure
from mlx_mesh_broker.core.entities import REQUEST_BYTES
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Request
    from mlx_mesh_broker.core.queues import Queue
    from mlx_mesh_broker.core.state import State

RETRY_MIN_MS: Final = 50
RETRY_MAX_MS: Final = 5000
"""Bounds of ``retry_after_ms``: sooner is pointless, later would leave recovered capacity idle."""

EVICTED_MAX: Final = 64
"""Requests that give way to one: a large request must not cost the work of a whole queue, nor hold up the loop."""


class Overload:
    """The caps of queues, of clients, and of all requests together."""

    def __init__(self, state: State, dispatcher: Dispatcher) -> None:
        self._state = state
        self._dispatcher = dispatcher

    def of_client(self, request: Request) -> Failure:
        """Say why the request's client may not have another one outstanding."""
        config, session = self._state.config, request.session
        return failure(
            "OVERLOADED",
            f"this client has {len(session.outstanding)} requests outstanding already, of {session.large_bytes} bytes "
            f"without the small ones, and this one has {request.size}; allowed are {config.client_max_outstanding} of "
            f"{config.client_max_request_bytes} bytes",
            retry_after_ms=RETRY_MIN_MS,
        )

    def of_queue(self, queue: Queue, request: Request) -> Failure | None:
        """Make room for the request if need be, at the cost of lower lanes only; or say why there is none."""
        config = self._state.config
        size = request.size
        fits = queue.count < config.queue_max_requests and queue.bytes + size <= config.queue_max_bytes
        if fits and self._state.held_bytes() + REQUEST_BYTES + (request.charged or size) <= config.requests_max_bytes:
            return None
        why = self._of_all(request) if fits else self._of_one(queue, request)
        victims = self._victims(queue, request)
        text = f"made room for a request in the {LANE_NAMES[request.lane]} lane"
        for victim in victims:
            self._state.metrics.counts["evicted"] += 1
            self._dispatcher.drop(victim, why._replace(message=text))
        return None if victims else why

    def _victims(self, queue: Queue, request: Request) -> list[Request]:
        """Return who has to give way, the newest of the lowest lane first; nobody if that does not make enough room."""
        config, lane = self._state.config, request.lane
        count = queue.count + 1 - config.queue_max_requests
        size = queue.bytes + request.size - config.queue_max_bytes
        own = request.charged or request.size
        excess = self._state.held_bytes() + REQUEST_BYTES + own - config.requests_max_bytes
        others = self._heaviest(lane) if excess > 0 else None
        sources = [islice(each.below(lane), EVICTED_MAX) for each in (queue, others) if each is not None]
        victims: dict[Request, None] = {}
        for each in chain(*sources):
            if max(count, size, excess) <= 0:
                break
            if each.followers or each in victims:
                continue  # Of a computation that others share, one of them would take the place.
            victims[each] = None
            if each.queue is queue:
                count, size = count - 1, size - each.size
            excess -= REQUEST_BYTES + each.charged
        return list(victims) if max(count, size, excess) <= 0 else []

    def _heaviest(self, lane: int) -> Queue | None:
        """Return the queue with the most bytes among those where requests of a lower lane wait."""
        lower = (queue for queue in self._state.queues.values() if any(each.count for each in queue.lanes[lane + 1 :]))
        return max(lower, key=lambda queue: queue.bytes, default=None)

    def _of_one(self, queue: Queue, request: Request) -> Failure:
        config = self._state.config
        return failure(
            "OVERLOADED",
            f"{queue.count} requests of {queue.bytes} bytes wait for {request.op!r}, and this one has {request.size}; "
            f"allowed are {config.queue_max_requests} of {config.queue_max_bytes} bytes",
            retry_after_ms=self._half_of(queue.count, sum(queue.metrics.request_time.counts)),
        )

    def _of_all(self, request: Request) -> Failure:
        state = self._state
        outstanding, allowed = state.metrics.accepted - state.metrics.answered, state.config.requests_max_bytes
        return failure(
            "OVERLOADED",
            f"the broker holds {outstanding} requests that take {state.held_bytes()} bytes, and this one has "
            f"{request.size}; allowed are {allowed}, of which each takes {REQUEST_BYTES} at least",
            retry_after_ms=self._half_of(outstanding, state.metrics.answered),
        )

    def _half_of(self, count: int, done: int) -> int:
        """Return the milliseconds until half of so many are answered, at the pace of this epoch so far."""
        elapsed = self._state.now - self._state.started
        if not done or elapsed <= 0:
            return RETRY_MAX_MS
        return max(RETRY_MIN_MS, min(RETRY_MAX_MS, int(1000 * count / 2 * elapsed / done)))
