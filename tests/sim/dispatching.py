"""What must hold when a JOB goes out: for what is outstanding, to a worker that is fit and has room, in its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.pool import REFUGE_EXTRA
from mlx_mesh_broker.core.timers import TICK_S
from mlx_mesh_wire.messages import Flag, Lane
from tests.sim.books import JobBook
from tests.sim.invariants import Violation
from tests.sim.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.books import RequestBook, WorkerBook
    from tests.sim.watcher import Watcher

_BULK = Lane.BULK
_ALONE, _AT_MOST_ONCE = Flag.ALONE, Flag.AT_MOST_ONCE


def job(watcher: Watcher, route: bytes, message: Any, frames: Sequence[Any]) -> None:
    """Check a JOB and note it."""
    worker = watcher.workers.get(route)
    if worker is None:
        raise Violation("fit_worker", f"{message} goes to {route!r}, where no worker is known")
    session = watcher.sessions.get(message.session)
    request = session.open.get(message.request_id) if session is not None else None
    if request is None or request.settled:
        raise Violation("outstanding_only", f"{message} is for a request that is not outstanding")
    _check_request(watcher, request, message, frames)
    place = message.session, message.request_id
    if place in worker.brought:
        worker.brought.discard(place)  # It is asked for what it says it holds, whatever its state.
    else:
        if request.lost and request.flags & _AT_MOST_ONCE:
            raise Violation("at_most_once", f"{request} may have begun, and is run again by {worker.name}")
        _check_worker(watcher, worker, request, message)
        request.fruitless += 1
        if request.fruitless > watcher.config.attempts_max:
            raise Violation("attempts", f"{request} is given to a worker for the {request.fruitless}th time in vain")
        if message.attempt == 1:
            _check_turn(watcher, route, message.job_id)
    if request.flags & _AT_MOST_ONCE:
        watcher.once.setdefault(place, 0)
    request.job = worker.jobs[message.job_id] = JobBook(message.job_id, request, worker)
    request.attempts = message.attempt
    request.fresh = 0
    worker.bulk += request.lane == _BULK
    watcher.last_job = message.job_id


def _check_request(watcher: Watcher, request: RequestBook, message: Any, frames: Sequence[Any]) -> None:
    if request.job is not None:
        raise Violation("one_worker", f"{request} goes out again while {request.job.worker.name} has it")
    if request.due + TICK_S < watcher.woke:
        raise Violation("outstanding_only", f"{request} expired {watcher.woke - request.due:.3f} s ago, and goes out")
    left_ms = (request.due - watcher.now) * 1000
    if not left_ms - 1.001 <= message.remaining_ms <= max(left_ms, 0) + 0.001:
        raise Violation("deadline", f"{request} has {left_ms} ms left, the worker is told {message.remaining_ms}")
    if message.attempt <= request.attempts or message.job_id <= watcher.last_job:
        raise Violation("attempts", f"{request}: attempt {message.attempt} comes after {request.attempts}")
    if not request.stream and frames is not request.frames:
        raise Violation("own_body", f"{request} goes out with another body")
    if request.deaths:
        if request.deaths >= watcher.config.deaths_max:
            raise Violation("poison", f"{request} goes out after {request.deaths} deaths")
        if not message.flags & _ALONE:
            raise Violation("poison", f"{request} has cost a worker, and goes out with others")


def _check_worker(watcher: Watcher, worker: WorkerBook, request: RequestBook, message: Any) -> None:
    if worker.state != "ready" or worker.quiet:
        state = "quiet" if worker.quiet else worker.state
        raise Violation("fit_worker", f"{request} goes to {worker.name}, which is {state}")
    if not worker.serves(request.op, request.model):
        raise Violation("serves", f"{request} goes to {worker.name}, which serves {set(worker.ops)}")
    held = len(worker.jobs)
    if held >= worker.capacity and not (message.flags & _ALONE and held < worker.capacity + REFUGE_EXTRA):
        raise Violation("slots", f"{request} goes to {worker.name}, which holds {held} of {worker.capacity}")
    if message.attempt == 1:
        if request.lane == _BULK and worker.bulk >= worker.bulk_capacity:
            raise Violation("slots", f"{request} goes to {worker.name}, which has {worker.bulk} bulk jobs")
        if request.lane > watcher.lowest and not worker.remote:
            raise Violation("paused_lane", f"{request} goes to {worker.name} in a lane that is paused")


def _check_turn(watcher: Watcher, route: bytes, job_id: int) -> None:
    known = watcher.state.workers.get(route)
    held = known.jobs.get(job_id) if known is not None else None
    if held is None or (watcher.source is None and watcher.fresh is None):
        # Taken back at once, or places fell free in the midst of the event: whose turn it was then cannot be told.
        watcher.turns.clear()
        return
    queue = held.queue
    turns = watcher.turns.get(queue)
    if turns is None:
        if not queue.count:
            return
        turns = watcher.turns[queue] = Turns()
    turns.took(queue, held, known)
