"""Who is known: connections, sessions and workers that come, move and go, and the states that workers are in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.guard import GUARD_LEASE_S
from mlx_mesh_broker.core.timers import TICK_S
from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import (
    Beat,
    Bye,
    Dump,
    Held,
    Hello,
    Lane,
    Loading,
    Quiet,
    Ready,
    Reset,
    Welcome,
)
from tests.sim.books import SessionBook, WorkerBook
from tests.sim.invariants import Violation

if TYPE_CHECKING:
    from tests.sim.watcher import Watcher

STATES = frozenset({"loading", "ready", "suspect", "stalled", "draining", "lost", "left"})
COMING = frozenset({"loading", "ready", "suspect", "stalled"})


def client_says(watcher: Watcher, event: Any, session: SessionBook | None) -> None:
    """Take account of a client's message other than a REQUEST, before what is done about it."""
    message = event[1]
    if type(message) is not Hello or message.major != limits.PROTOCOL_MAJOR:
        return
    route = event[0]
    known = watcher.sessions.get(message.session)
    if known is None:
        known = watcher.sessions[message.session] = SessionBook(message.session, message.name, route)
    watcher.clients.pop(known.route, None)
    known.route = route
    known.away = False
    known.told.clear()
    watcher.absent.discard(known)
    watcher.clients[route] = known


def worker_says(watcher: Watcher, event: Any, worker: WorkerBook | None) -> None:
    """Take account of a worker's message that is not about a job, before what is done about it."""
    route, message = event[0], event[1]
    kind = type(message)
    if worker is not None:
        worker.heard = watcher.now
    if kind is Beat:
        if worker is not None:
            worker.running = frozenset(message.running)
            if worker.said_quiet and not message.draining:
                worker.quiet = worker.said_quiet = False
    elif kind is Bye:
        if worker is not None:
            worker.quiet = True  # Whatever state it is in until it is lost.
    elif kind is Quiet:
        if worker is not None:
            worker.quiet = worker.said_quiet = message.on
            _again_quiet(watcher, worker, message)
    elif kind is Held:
        held = watcher.pending.setdefault(route, set())
        held.update((session, request_id) for session, request_id, _ in message.jobs)
    elif kind in (Ready, Loading) and message.major == limits.PROTOCOL_MAJOR:
        _register(watcher, route, message, worker)


def _register(watcher: Watcher, route: bytes, message: Any, former: WorkerBook | None) -> None:
    brought = watcher.pending.pop(route, set())
    worker = watcher.instances.get(message.instance)
    if worker is None:
        worker = WorkerBook(route, message, message.machine != watcher.state.machine)
        watcher.instances[message.instance] = worker
    elif worker.route != route:
        if watcher.workers.get(worker.route) is worker:
            del watcher.workers[worker.route]
        worker.route = route
        for job_id in list(worker.jobs):
            job = worker.take(job_id)
            assert job is not None
            job.request.lost = True
    if former is not None and former is not worker:
        former.route = b""
    if (worker.state, type(message)) in (("ready", Ready), ("loading", Loading)):
        reached(watcher, worker.state, "ready" if type(message) is Ready else "load")
    worker.brought |= brought
    worker.quiet = worker.said_quiet = False
    worker.heard = watcher.now
    if type(message) is Loading and not worker.loads:
        worker.loading_since = watcher.now
    worker.loads = type(message) is Loading
    worker.describe(message, watcher.config)
    watcher.workers[route] = worker
    watcher.newcomers.add(route)


def _again_quiet(watcher: Watcher, worker: WorkerBook, message: Any) -> None:
    """To be told once more changes nothing, and so is not logged."""
    if message.on and worker.state == "draining":
        reached(watcher, "draining", "quiet")


def reached(watcher: Watcher, state: str, turn: str) -> None:
    """Count a turn."""
    key = "turn", state, turn
    watcher.seen[key] += 1


def told_worker(watcher: Watcher, route: bytes, message: Any) -> None:
    """Take account of what a worker is told besides JOB and CANCEL."""
    kind = type(message)
    worker = watcher.workers.get(route)
    if kind is Welcome:
        watcher.newcomers.discard(route)
        return
    if worker is None:
        return
    if kind is Quiet:
        worker.quiet = message.on or worker.said_quiet
        _again_quiet(watcher, worker, message)
    elif kind is Dump:  # It is stalled; what it computes may be why.
        for job in worker.blamed():
            job.request.deaths += 1


def told_client(watcher: Watcher, route: bytes, message: Any) -> None:
    """Only a client that is known is told anything but who the broker is, or that it is not wanted."""
    if type(message) not in (Welcome, Reset, Bye) and route not in watcher.clients:
        raise Violation("only_asker", f"{message} goes to {route!r}, where no client is known")


def logged(watcher: Watcher, log: Any) -> None:
    """Take account of a change of a worker's state, or of a session's end: the log tells them in order."""
    event = log.event
    if event.startswith("worker_") and event[7:] in STATES:
        _turned(watcher, event[7:], log.fields)
    elif event == "client_left":
        _left(watcher, log.fields["client"], log.fields["reason"])
    elif event == "guard_silent":
        if watcher.now < watcher.told_at + GUARD_LEASE_S - TICK_S:
            raise Violation("held_up", f"the guard is called silent {watcher.now - watcher.told_at:.3f} s after a word")
        watcher.lowest = Lane.BULK


def _turned(watcher: Watcher, state: str, fields: Any) -> None:
    for worker in watcher.instances.values():
        if worker.pid == fields["pid"] and worker.name == fields["worker"]:
            break
    else:
        raise Violation("same_books", f"a worker that is not known is {state}: {fields}")
    if worker.state != fields["was"]:
        raise Violation("same_books", f"{worker.name} was {worker.state}, not {fields['was']}")
    was, worker.state, worker.because = worker.state, state, fields["because"]
    reached(watcher, was, worker.because)
    if state == "lost" and worker.because == "silent too long":
        silent_s = watcher.now - worker.heard
        allowed_s = watcher.config.lost_remote_s if worker.remote else watcher.config.lost_s
        loads_s = watcher.now - worker.loading_since if was == "loading" else 0.0
        if silent_s < allowed_s - TICK_S and loads_s < worker.load_max_s - TICK_S:
            text = f"{worker.name} is called lost after {silent_s:.3f} s of silence, and of loading {loads_s:.3f} s"
            raise Violation("held_up", text)
    if was in COMING and state not in COMING:
        for op in worker.ops:
            for model in (*worker.models, ""):
                watcher.gone[op, model] = watcher.now


def lost(watcher: Watcher, instance: bytes) -> None:
    """Take a worker off the books; what it was computing is suspected of its death."""
    worker = watcher.instances.pop(instance, None)
    if worker is None:
        raise Violation("same_books", f"{instance!r} is not watched any more, and was never known")
    if watcher.workers.get(worker.route) is worker:
        del watcher.workers[worker.route]
    for job in _suspects(watcher, worker):
        job.request.deaths += 1
    for job_id in list(worker.jobs):
        job = worker.take(job_id)
        assert job is not None
        job.request.lost = True


def _suspects(watcher: Watcher, worker: WorkerBook) -> list[Any]:
    event = watcher.event
    if worker.because == "died":
        running = event.running
        return [job for job_id, job in worker.jobs.items() if running is None or job_id in running]
    if worker.because == "silent too long":
        allowed_s = watcher.config.lost_remote_s if worker.remote else watcher.config.lost_s
        return worker.blamed() if watcher.now - worker.heard >= allowed_s else []
    return []


def _left(watcher: Watcher, name: str, reason: str) -> None:
    """Take a session off the books. Of one name there may be several: a client that was started again has the same."""
    known = watcher.state.sessions
    for session in watcher.sessions.values():
        if (
            session.name == name
            and session.key not in known
            and (session.away or (reason != "gone" and not session.open))
        ):
            break
    else:
        raise Violation("one_answer", f"client {name} is {reason}, and was not told the end of what it had asked")
    del watcher.sessions[session.key]
    watcher.absent.discard(session)
    if watcher.clients.get(session.route) is session:
        del watcher.clients[session.route]
    watcher.answered.extend(request for request in session.open.values() if request.job is not None)
