"""Follows one broker life, event by event, and checks what it does by what its messages have told before.

Nothing here is looked up in the core but what no message tells: what waits in its queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.actions import Log, ToClient, ToWorker, Unwatch
from mlx_mesh_broker.core.entities import PROGRESS_CHUNKS
from mlx_mesh_broker.core.timers import TICK_S
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Cancel, Chunk, Error, Final, Flag, Job, Lane, Request
from tests.sim import answering, dispatching, registering
from tests.sim.books import RequestBook
from tests.sim.invariants import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sim.books import JobBook, SessionBook, WorkerBook
    from tests.sim.turns import Turns

LOWEST = {"": Lane.BULK, "bulk": Lane.STANDARD, "standard": Lane.INTERACTIVE}
SPINS_MAX = 200
"""Wake-ups at one instant that do nothing."""


class Watcher:
    """The books of one broker life.

    Attributes:
        clients: sessions by the route of their connection; ``sessions`` by key.
        workers: by route; ``instances`` by instance.
        absent: sessions without a connection; what they are told is not seen.
        fresh: the request that the event at hand brought, if it is new.
        answered: requests that the event at hand has ended.
        source: the job whose end the event at hand tells.
        newcomers: routes of workers that said READY and have not been welcomed yet.
        gone: when the last worker for an op and model went that work could wait for.
        woke: when the core last looked after what is due.
        cancels: number of the last JOB when a job was cancelled, and on which connection, by job id.
    """

    def __init__(self, core: Any, now: float, seen: dict[Any, int], once: dict[tuple[bytes, int], int]) -> None:
        self.core = core
        self.once = once
        self.state = core._state
        self.config = self.state.config
        self.now = self.woke = now
        self.seen = seen
        self.sessions: dict[bytes, SessionBook] = {}
        self.clients: dict[bytes, SessionBook] = {}
        self.instances: dict[bytes, WorkerBook] = {}
        self.workers: dict[bytes, WorkerBook] = {}
        self.pending: dict[bytes, set[tuple[bytes, int]]] = {}
        self.absent: set[SessionBook] = set()
        self.newcomers: set[bytes] = set()
        self.gone: dict[tuple[str, str], float] = {}
        self.turns: dict[Any, Turns] = {}
        self.cancels: dict[int, tuple[int, bytes]] = {}
        self.last_job = 0
        self.lowest = Lane.BULK
        self.told_at = 0.0
        self.event: Any = None
        self.fresh: RequestBook | None = None
        self.source: JobBook | None = None
        self.answered: list[RequestBook] = []
        self._spins = 0
        self._on: dict[type, Callable[[Any, Sequence[Any]], None]] = {
            events.FromClient: self._from_client,
            events.FromWorker: self._from_worker,
            events.Wakeup: self._wakeup,
            events.ClientUnreachable: self._client_unreachable,
            events.HeldUp: self._held_up,
            events.GuardTold: self._guard_told,
        }

    def fed(self, now: float, event: Any, actions: Sequence[Any]) -> None:
        """Take account of an event and of what the core decided."""
        self.now = now
        self.event = event
        kind = type(event)
        seen = self.seen
        seen[kind] += 1
        if kind is events.FromWorker or kind is events.FromClient:
            what = type(event[1])
            seen[what] += 1
        handler = self._on.get(kind)
        if handler is not None:
            handler(event, actions)
        else:
            self.acts(actions)
        if self.answered:
            self._settle()

    def acts(self, actions: Sequence[Any]) -> None:
        """Go through the actions in order."""
        seen = self.seen
        for action in actions:
            kind = type(action)
            seen[kind] += 1
            if kind is ToWorker:
                message = action[1]
                what = type(message)
                seen[what] += 1
                if what is Job:
                    dispatching.job(self, action[0], message, action[2])
                elif what is Cancel:
                    self._cancel_job(action[0], message.id)
                else:
                    registering.told_worker(self, action[0], message)
            elif kind is ToClient:
                self._to_client(action[0], action[1], action[2])
            elif kind is Log:
                registering.logged(self, action)
            elif kind is Unwatch:
                registering.lost(self, action.instance)

    def _to_client(self, route: bytes, message: Any, frames: Sequence[Any]) -> None:
        seen = self.seen
        kind = type(message)
        seen[kind] += 1
        if kind is Final:
            answering.final(self, route, message, frames)
        elif kind is Chunk:
            self._chunk_out(route, message, frames)
        elif kind is Error:
            seen["error", message.code] += 1
            if message.id:
                answering.error(self, route, message)
        else:
            registering.told_client(self, route, message)

    def _from_client(self, event: Any, actions: Sequence[Any]) -> None:
        message = event[1]
        session = self.clients.get(event[0])
        if type(message) is not Request or session is None:
            registering.client_says(self, event, session)
            self.acts(actions)
            if type(message) is Cancel and session is not None and message.id in session.open:
                raise Violation("one_answer", f"{session.open[message.id]} was cancelled, and is told nothing")
            return
        if message.request_id in session.open or (message.request_id in session.told and message.flags & Flag.RESEND):
            self.acts(actions)
            return
        request = RequestBook(session, message, event[2], self.now)
        session.open[message.request_id] = self.fresh = request
        self.acts(actions)
        self.fresh = None
        if message.request_id in session.open:
            self._admitted(session, request)

    def _admitted(self, session: SessionBook, request: RequestBook) -> None:
        if request.due <= self.now:
            raise Violation("outstanding_only", f"{request} had expired when it came, and was taken in")
        state, config = self.state, self.config
        if len(session.open) > config.client_max_outstanding and not session.kept:
            raise Violation("caps", f"{session.name} has {len(session.open)} requests outstanding")
        if state.held_bytes() > config.requests_max_bytes:
            raise Violation("caps", f"the broker holds {state.held_bytes()} bytes")
        if request.job is None:
            held = state.clients[session.route].outstanding.get(request.id)
            if held is None:
                raise Violation("same_books", f"{request} has no answer and is not outstanding")
            if held.waiting:
                self._waits(held)

    def _waits(self, held: Any) -> None:
        queue, config = held.queue, self.config
        again = len(queue.again)
        if queue.count - again > config.queue_max_requests or (queue.bytes > config.queue_max_bytes and not again):
            raise Violation("caps", f"{queue.count} requests of {queue.bytes} bytes wait in {queue.key}")
        best = queue.pool.best()
        if best is not None and best.room(held.lane) > 0:
            raise Violation("no_idle", f"request {held.id} waits in {queue.key}, {best.info.name} has room")

    def _from_worker(self, event: Any, actions: Sequence[Any]) -> None:
        route, message = event[0], event[1]
        worker = self.workers.get(route)
        if worker is None or type(message) not in ANSWERS:
            registering.worker_says(self, event, worker)
            self.acts(actions)
            return
        worker.heard = self.now
        kind = type(message)
        if kind is Chunk:
            self._chunk_in(worker, message, actions)
            return
        source = worker.take(message[0])
        self.source = source
        if source is None:
            self._refuse_late(message, actions)
        self.acts(actions)
        self.source = None
        if source is not None:
            answering.told(self, source, message)
            self._no_idle(route, worker)

    def _refuse_late(self, message: Any, actions: Sequence[Any]) -> None:
        for action in actions:
            if type(action) is ToClient and type(action[1]) in (Final, Error):
                raise Violation("late_answer", f"{message} is for no job that this worker holds: {action}")

    def _no_idle(self, route: bytes, worker: WorkerBook) -> None:
        known = self.state.workers.get(route)
        if known is None:
            raise Violation("same_books", f"worker {worker.name} is here, and not in the core's tables")
        if len(known.jobs) != len(worker.jobs):
            raise Violation("same_books", f"worker {worker.name} holds {len(worker.jobs)}, not {len(known.jobs)} jobs")
        if worker.state != "ready" or len(worker.jobs) >= worker.capacity:
            return
        for queue in known.queues:
            if queue.count:
                best = queue.pool.best()
                if best is None or any(r.attempts or best.room(r.lane) > 0 for r in queue):
                    raise Violation("no_idle", f"{queue.count} wait in {queue.key}, {worker.name} has room")

    def _chunk_in(self, worker: WorkerBook, message: Any, actions: Sequence[Any]) -> None:
        if message.id not in worker.jobs:
            for action in actions:
                if type(action) is ToClient and type(action[1]) is Chunk:
                    raise Violation("late_answer", f"{message} is for no job that this worker holds: {action}")
        self.source = worker.jobs.get(message.id)
        self.acts(actions)
        self.source = None

    def _chunk_out(self, route: bytes, message: Any, frames: Sequence[Any]) -> None:
        session = self.clients.get(route)
        request = session.open.get(message.id) if session is not None else None
        source = self.source
        if source is None:
            if session is None or (request is None and message.id not in session.kept):
                raise Violation("only_asker", f"{message} goes to {route!r}, which did not ask")
            return
        if request is None or source.request is not request:
            raise Violation("only_asker", f"{message} of {source.request} goes to {route!r}")
        if frames is not self.event[2]:
            raise Violation("own_body", f"{message} is not the one that the worker sent")
        request.fresh += 1
        if request.fresh == PROGRESS_CHUNKS:
            request.deaths = request.fruitless = 0

    def _cancel_job(self, route: bytes, job_id: int) -> None:
        worker = self.workers.get(route)
        job = worker.take(job_id) if worker is not None else None
        if job is not None:
            job.request.lost = True
            self.cancels[job_id] = self.last_job, route

    def _settle(self) -> None:
        """What has ended holds no slot any more, or somebody else inherits it."""
        answered, self.answered = self.answered, []
        for request in answered:
            job = request.job
            if job is None or job.id not in job.worker.jobs:
                continue
            known = self.state.workers.get(job.worker.route)
            held = known.jobs.get(job.id) if known is not None else None
            session = self.sessions.get(held.session.key) if held is not None else None
            heir = session.open.get(held.id) if session is not None else None
            if heir is None or heir is request or not heir.same_content(request):
                raise Violation("released", f"{request} has ended and still holds a slot of {job.worker.name}")
            job.worker.bulk += (heir.lane == Lane.BULK) - (request.lane == Lane.BULK)
            job.request, heir.job, request.job = heir, job, None
            heir.attempts, heir.deaths, heir.fruitless = request.attempts, request.deaths, request.fruitless

    def _wakeup(self, event: Any, actions: Sequence[Any]) -> None:
        now = self.now
        spins = self._spins + 1 if now == self.woke and not actions else 0
        self._spins = spins
        if spins > SPINS_MAX:
            raise Violation("no_spinning", f"the core was woken {spins} times at {now} and did nothing")
        self.acts(actions)
        self.woke = now
        state = self.state
        for session in self.absent:
            self._expire_unseen(session)
        if state.parked and now >= state.started + self.config.rejoin_s + TICK_S:
            raise Violation("parked", f"{len(state.parked)} requests wait for workers that have not come back")

    def _expire_unseen(self, session: SessionBook) -> None:
        """Of those that share a computation another one takes it over, though nobody can be told of the end of this."""
        outstanding = self.state.sessions[session.key].outstanding
        for request in session.open.values():
            if request.job is not None and request.due <= self.now and request.id not in outstanding:
                self.answered.append(request)

    def _client_unreachable(self, event: Any, actions: Sequence[Any]) -> None:
        session = self.clients.pop(event.route, None)
        if session is not None:
            session.away = True
            self.absent.add(session)
            session.kept.update(message.id for message, _ in event.unsent if hasattr(message, "id"))
        self.acts(actions)

    def _held_up(self, event: Any, actions: Sequence[Any]) -> None:
        for worker in self.instances.values():
            worker.heard = min(worker.heard + event.seconds, self.now)
            worker.loading_since = min(worker.loading_since + event.seconds, self.now)
        self.told_at = min(self.told_at + event.seconds, self.now)
        self.acts(actions)

    def _guard_told(self, event: Any, actions: Sequence[Any]) -> None:
        self.told_at = self.now
        self.lowest = LOWEST[event.pause]
        self.acts(actions)


ANSWERS = frozenset({Final, Error, Chunk, messages.Return})
"""What a worker says of a job."""
