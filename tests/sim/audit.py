"""The whole of the books against the whole of the core's tables: too slow for each event, so done now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.entities import Request
from mlx_mesh_broker.core.invariants import BrokenInvariantError
from mlx_mesh_broker.core.timers import TICK_S
from tests.sim.invariants import Violation

if TYPE_CHECKING:
    from tests.sim.watcher import Watcher


def audit(watcher: Watcher) -> None:
    """Compare everything."""
    try:
        watcher.core.check_invariants()
    except BrokenInvariantError as error:
        raise Violation("core_invariants", str(error)) from None
    _sessions(watcher)
    _workers(watcher)
    _timers(watcher)
    metrics = watcher.state.metrics
    outstanding = sum(len(session.outstanding) for session in watcher.state.sessions.values())
    if metrics.accepted != metrics.answered + outstanding:
        text = f"{metrics.accepted} accepted, {metrics.answered} answered, {outstanding} outstanding"
        raise Violation("counters", text)
    if watcher.newcomers:
        raise Violation("welcome_first", f"{watcher.newcomers} said READY and were not welcomed")


def _sessions(watcher: Watcher) -> None:
    known = watcher.state.sessions
    if set(known) != set(watcher.sessions):
        raise Violation("same_books", f"sessions {set(known) ^ set(watcher.sessions)} are known to one side only")
    for key, session in watcher.sessions.items():
        outstanding = known[key].outstanding
        if not session.away and set(session.open) != set(outstanding):
            text = f"{session.name} waits for {set(session.open)}, the core knows {set(outstanding)}"
            raise Violation("same_books", text)
        for request_id in outstanding:
            request = session.open.get(request_id)
            if request is None:
                raise Violation("same_books", f"{session.name}/{request_id} is outstanding and has been answered")
            if request.due + TICK_S < watcher.woke:
                raise Violation("expiry", f"{request} expired {watcher.woke - request.due:.3f} s ago")


def _workers(watcher: Watcher) -> None:
    known = watcher.state.instances
    if set(known) != set(watcher.instances):
        raise Violation("same_books", f"workers {set(known) ^ set(watcher.instances)} are known to one side only")
    for instance, worker in watcher.instances.items():
        core = known[instance]
        if set(core.jobs) != set(worker.jobs):
            text = f"{worker.name} holds {set(worker.jobs)}, the core says {set(core.jobs)}"
            raise Violation("same_books", text)
        if core.state.value != worker.state:
            raise Violation("same_books", f"{worker.name} is {worker.state}, the core says {core.state.value}")
        for job_id, job in worker.jobs.items():
            held: Any = core.jobs[job_id]
            if (held.session.key, held.id) != (job.request.session.key, job.request.id):
                raise Violation("same_books", f"job {job_id} of {worker.name} is {job.request}, not {held.id}")


def _timers(watcher: Watcher) -> None:
    sessions = watcher.state.sessions
    for bucket in watcher.state.timers._buckets.values():
        for item in bucket:
            if type(item) is Request:
                session = sessions.get(item.session.key)
                if session is None or session.outstanding.get(item.id) is not item:
                    raise Violation("expiry", f"request {item.session.name}/{item.id} has ended, its timer has not")


def emptied(watcher: Watcher) -> None:
    """After everything has ended nothing is left anywhere."""
    state = watcher.state
    left = {
        "outstanding": sum(len(each.outstanding) for each in state.sessions.values() if each.away is None),
        "parked": len(state.parked),
        "asked": len(state.asked),
        "flights": len(state.flights),
        "jobs": sum(len(worker.jobs) for worker in state.instances.values()),
        "waiting": sum(queue.count for queue in state.queues.values()),
    }
    if any(left.values()):
        raise Violation("healed", f"calls have all ended, and the broker has left {left}")
