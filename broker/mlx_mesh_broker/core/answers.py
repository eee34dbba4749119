"""The one answer of a request: who gets it, what is forgotten, what is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlx_mesh_broker.core import state as tables
from mlx_mesh_broker.core.metrics import NOBODY, OK
from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import ERROR_CLASSES
from mlx_mesh_wire.messages import Error, Final, FinalFlag

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlx_mesh_broker.core.entities import Request, Session
    from mlx_mesh_broker.core.metrics import OpMetrics
    from mlx_mesh_broker.core.state import State


class Failure(NamedTuple):
    """Why a request gets an error; ``frames`` hold the details as an encoded body."""

    code: str
    message: str
    retryable: bool
    retry_after_ms: int = 0
    frames: Sequence[bytes] = ()


def failure(code: str, message: str, *, retryable: bool | None = None, retry_after_ms: int = 0) -> Failure:
    """Return a failure with the table's default for ``retryable``."""
    default = ERROR_CLASSES[code].retryable_by_default
    return Failure(
        code,
        message[: limits.ERROR_MESSAGE_MAX_CHARS],
        default if retryable is None else retryable,
        retry_after_ms,
    )


class Answers:
    """Ends requests. Whoever calls has taken the request from its queue or worker before."""

    def __init__(self, state: State) -> None:
        self._state = state

    def result(self, request: Request, frames: Sequence[bytes], service_us: int) -> None:
        """Answer with a result, the followers too, and keep it for repeats."""
        followers = self._unfly(request)
        if request.key is not None and request.queue and request.key[0] == request.queue.source:
            self._state.cache.put(request.key, frames, self._state.now)
        flags = FinalFlag.SHARED if followers else 0
        self._final(request, frames, service_us, flags)
        for follower in followers:
            self._state.metrics.counts["shared"] += 1
            self._final(follower, frames, service_us, FinalFlag.SHARED)

    def cached(self, request: Request, frames: Sequence[bytes]) -> None:
        """Answer from the cache."""
        self._final(request, frames, 0, FinalFlag.CACHED)

    def failed(self, request: Request, why: Failure) -> None:
        """Answer with an error, the followers too: it would have met them as well."""
        for each in (request, *self._unfly(request)):
            self._error(each, why)

    def failed_alone(self, request: Request, why: Failure) -> None:
        """Answer this request only with an error; its followers have been given another leader."""
        self._error(request, why)

    def told(self, request: Request, outcome: str) -> None:
        """Take account of an answer that the client gets by other means; followers have been given another leader."""
        # The code may come from a worker, and each one that is counted stays for ever.
        known = outcome == OK or outcome in ERROR_CLASSES
        self._forget(request, outcome if known else "INTERNAL", request.dispatched or self._state.now)

    def refuse(self, session: Session, request_id: int, why: Failure, metrics: OpMetrics, lane: int) -> None:
        """Answer a request that was never taken in."""
        metrics.outcomes[lane, why.code] += 1
        message = Error(request_id, why.code, why.message, why.retryable, why.retry_after_ms)
        self._state.to_client(session, message, why.frames)

    def _unfly(self, request: Request) -> Collection[Request]:
        followers, request.followers = request.followers or (), None
        if request.key is not None and self._state.flights.get(request.key) is request:
            del self._state.flights[request.key]
        return followers

    def _final(self, request: Request, frames: Sequence[bytes], service_us: int, flags: int) -> None:
        state = self._state
        dispatched = request.dispatched or state.now
        queue_us = max(0, int((dispatched - request.arrived) * 1e6))
        self._forget(request, OK, dispatched)
        final = Final(request.id, request.attempts, queue_us, service_us, flags, request.next_seq)
        state.to_client(request.session, final, frames)

    def _error(self, request: Request, why: Failure) -> None:
        self.told(request, why.code)
        message = Error(request.id, why.code, why.message, why.retryable, why.retry_after_ms)
        self._state.to_client(request.session, message, why.frames)

    def _forget(self, request: Request, outcome: str, dispatched: float) -> None:
        state = self._state
        session = request.session
        del session.outstanding[request.id]
        if session.account is not None:
            session.account.outstanding -= 1
        if request.charged:
            session.large_bytes -= request.charged
            state.large_bytes -= request.charged
        state.timers.remove(request)
        request.leader = None
        metrics = request.queue.metrics if request.queue else state.metrics.op(NOBODY)
        metrics.outcomes[request.lane, outcome] += 1
        metrics.queue_time.observe(dispatched - request.arrived)
        metrics.request_time.observe(state.now - request.arrived)
        state.metrics.answered += 1
        if state.record_requests:
            self._record(request, outcome, dispatched)

    def _record(self, request: Request, outcome: str, dispatched: float) -> None:
        state = self._state
        if len(state.records) >= tables.RECORDS_MAX:
            state.metrics.counts["records_dropped"] += 1
            return
        state.records.append(
            {
                "session": request.session.key.hex(),
                "client": request.session.name,
                "request_id": request.id,
                "op": request.op,
                "model": request.model,
                "lane": request.lane,
                "outcome": outcome,
                "attempts": request.attempts,
                "queue_ms": (dispatched - request.arrived) * 1e3,
                "total_ms": (state.now - request.arrived) * 1e3,
                "bytes": request.size,
                "traceparent": request.traceparent,
            }
        )
