"""What must hold when an answer goes out: once, to whoever asked, with the body that its worker sent, for a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.entities import REQUEST_BYTES
from mlx_mesh_broker.core.events import BadClientMessage, FromClient
from mlx_mesh_wire.messages import Error, Final, FinalFlag, Flag, Hello, Request, Return, Status
from tests.sim.invariants import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.books import JobBook, RequestBook
    from tests.sim.watcher import Watcher

EARLY_S = 0.002
"""Times travel as whole milliseconds, rounded down, over two hops."""


def _take(watcher: Watcher, route: bytes, message: Any) -> RequestBook | None:
    """Return the request that is answered; None if the answer goes out a second time, since it could not be sent."""
    session = watcher.clients.get(route)
    if session is None:
        raise Violation("only_asker", f"{message} goes to {route!r}, where no client is known")
    if type(watcher.event) is FromClient and type(watcher.event[1]) is Hello and not getattr(message, "chunks", 0):
        session.told.add(message.id)
    request = session.open.pop(message.id, None)
    if request is None:
        if message.id in session.kept:
            return None
        raise Violation("one_answer", f"{message} goes to {session.name}, which has no such request")
    if request.job is not None:
        watcher.answered.append(request)
    return request


def final(watcher: Watcher, route: bytes, message: Any, frames: Sequence[Any]) -> None:
    """Check a FINAL and take the request off the books."""
    source = watcher.source
    if source is None:
        _final_from_elsewhere(watcher, route, message)
        return
    request = _take(watcher, route, message)
    if request is None:
        return
    if frames is not watcher.event[2]:
        raise Violation("own_body", f"{request} is answered with something else than its worker sent")
    if request is not source.request:
        if not message.flags & FinalFlag.SHARED or not request.same_content(source.request):
            raise Violation("own_body", f"{request} is answered with the result of {source.request}")
        if request.flags & (Flag.FRESH | Flag.AT_MOST_ONCE):
            raise Violation("own_body", f"{request} must not share the result of {source.request}")


def _final_from_elsewhere(watcher: Watcher, route: bytes, message: Any) -> None:
    """A result from the cache, of a status call, or one that was kept for a client that is back."""
    said = type(watcher.event[1]) if type(watcher.event) is FromClient else None
    if said is Status:
        return
    request = _take(watcher, route, message)
    if request is None or said is Hello:
        return
    if request is not watcher.fresh or not message.flags & FinalFlag.CACHED:
        raise Violation("late_answer", f"{request} is answered, and no worker has said so: {watcher.event}")
    if request.stream or request.flags & (Flag.FRESH | Flag.AT_MOST_ONCE):
        raise Violation("own_body", f"{request} must not be answered from the cache")


def told(watcher: Watcher, source: JobBook, message: Any) -> None:
    """After a worker's last word on a job: it was told to the client, or is kept for it, or the job runs again."""
    request = source.request
    session = request.session
    if session.open.get(request.id) is not request or type(message) is Return:
        return
    if session.away:
        request.settled = type(message) is Final
        return
    if type(message) is Error and message.code == "DEADLINE_EXCEEDED" and request.due > watcher.now:
        return  # The deadline was that of somebody else, whose computation this one had taken over.
    raise Violation("one_answer", f"{message} ends {request}, whose client is not told")


def error(watcher: Watcher, route: bytes, message: Any) -> None:
    """Check an ERROR that concerns a request, and take that off the books."""
    event = watcher.event
    kind = type(event)
    if kind is BadClientMessage:
        _refused_unread(watcher, route, message)
        return
    request = _take(watcher, route, message)
    if request is None or (kind is FromClient and type(event[1]) is Hello):
        return
    if watcher.source is not None and type(event[1]) is Error and message.code == event[1].code:
        if request is not watcher.source.request and not request.same_content(watcher.source.request):
            raise Violation("own_body", f"{request} is told the error of {watcher.source.request}")
        return
    check = _REASONS.get(message.code)
    if check is not None:
        check(watcher, request, message)


def _refused_unread(watcher: Watcher, route: bytes, message: Any) -> None:
    """A request that could not be decoded may still be told so, if its id could be read."""
    event = watcher.event
    if event.route != route or message.id != event.request_id or message.code != event.code:
        raise Violation("only_asker", f"{message} goes to {route!r} for {event}")
    if message.id in watcher.clients[route].open:
        raise Violation("one_answer", f"{message} ends another request of the same id")


def _overloaded(watcher: Watcher, request: RequestBook, message: Any) -> None:
    """Refused at a cap, or put out by a higher lane, or without room for the state that it goes on from."""
    fresh, event = watcher.fresh, watcher.event
    if request is not fresh:
        resent = fresh is None and type(event[1]) is Request and request.stream
        if not resent and (fresh is None or fresh.lane >= request.lane):
            raise Violation("undue_overload", f"{request} has to give way to {fresh}")
        return
    state, config, session = watcher.state, watcher.config, watcher.clients[event[0]]
    known = state.clients[event[0]]
    size = sum(map(len, request.frames))
    home = state.home(request.op, request.model)
    if not (
        len(known.outstanding) >= config.client_max_outstanding
        or known.large_bytes + size > config.client_max_request_bytes
        or state.held_bytes() + REQUEST_BYTES + size > config.requests_max_bytes
        or home is None
        or home.count >= config.queue_max_requests
        or home.bytes + size > config.queue_max_bytes
        or getattr(event, "holder", None) is not None
    ):
        open_ = len(session.open)
        raise Violation("undue_overload", f"{request} is told {message.message}: {open_} open, {home.count} wait")


def _nobody(watcher: Watcher, request: RequestBook, message: Any) -> None:
    """Nobody serves it, nor has done so within rejoin_s, if it was taken in for that."""
    if request.flags & Flag.WAIT_FOR_READY:
        raise Violation("waits_for_ready", f"{request} is told {message.code}: {message.message}")
    for worker in watcher.instances.values():
        if worker.state in ("loading", "ready", "suspect", "stalled") and worker.serves(request.op, request.model):
            raise Violation("undue_refusal", f"{request} is told {message.code}, {worker.name} is {worker.state}")
    gone = watcher.gone.get((request.op, request.model), 0.0)
    home = watcher.state.queues.get((request.op, request.model))
    expected = request is not watcher.fresh or (home is not None and home.gone_at)
    if expected and watcher.now < gone + watcher.config.rejoin_s - EARLY_S:
        text = f"{request} is told {message.code} {watcher.now - gone:.3f} s after its last worker went"
        raise Violation("undue_refusal", text)


def _expired(watcher: Watcher, request: RequestBook, message: Any) -> None:
    if watcher.now < request.due - EARLY_S:
        raise Violation("not_early", f"{request} is told {message.message} {request.due - watcher.now:.3f} s early")


def _lost(watcher: Watcher, request: RequestBook, message: Any) -> None:
    """It was to run once, or was given to too many workers."""
    if not request.flags & Flag.AT_MOST_ONCE and 0 < request.attempts < watcher.config.attempts_max:
        raise Violation("due_error", f"{request} is told {message} after {request.attempts} attempts")


def _internal(watcher: Watcher, request: RequestBook, message: Any) -> None:
    raise Violation("due_error", f"{request} is told {message}")


_REASONS = {
    "OVERLOADED": _overloaded,
    "NO_WORKER": _nobody,
    "UNKNOWN_MODEL": _nobody,
    "DEADLINE_EXCEEDED": _expired,
    "WORKER_LOST": _lost,
    "INTERNAL": _internal,
}
"""What has to be so when a code is told that comes from no worker."""
