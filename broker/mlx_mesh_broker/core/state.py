"""What the parts of the core share: the tables, the clock of the event at hand, and the actions decided so far."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_mesh_broker.core.actions import Action, Log, ToClient, ToWorker
from mlx_mesh_broker.core.catalogue import ANY, Catalogue
from mlx_mesh_broker.core.entities import REQUEST_BYTES
from mlx_mesh_broker.core.guard import Guard, Roster
from mlx_mesh_broker.core.lifecycle import COMING, WorkerState
from mlx_mesh_broker.core.metrics import NOBODY, Metrics
from mlx_mesh_broker.core.queues import Queue
from mlx_mesh_broker.core.sharing import Quarantine, ResultCache
from mlx_mesh_broker.core.timers import Alarm, Timers
from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core.catalogue import Kind
    from mlx_mesh_broker.core.config import Config
    from mlx_mesh_broker.core.entities import Kept, Request, Session, Worker
    from mlx_mesh_broker.core.quotas import Account
    from mlx_mesh_broker.core.sharing import Key
    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.messages import Message

QUEUES_MAX = 1024
"""Pairs of op and model with a queue of their own; idle ones are dropped before a new one is refused."""

CROWDED_S = 1.0
"""After all of them were found in use, how long nobody looks again: looking goes through all outstanding requests."""

AWAY_MESSAGE_BYTES = 256
"""What keeping a message for a client that is away takes besides its frames."""

RECORDS_MAX = 16_384
"""Records of requests kept for the shell, which takes them ten times a second: about 10 MB."""

AFFINITY_MAX = 8192
"""Affinity keys remembered, the least recently used go first; at about 200 bytes each that is 2 MB."""


STAMP_BITS = 32
"""Numbers of one epoch: 4 thousand million. The 21 bits above them are the epoch's own."""


def _first_stamp(epoch: str) -> int:
    """Return where the numbers of an epoch begin.

    A worker may answer under a job id of the last epoch before it hears of the new one. It must not be one of now.
    """
    digest = blake2b(epoch.encode(), digest_size=3).digest()
    return int.from_bytes(digest, "big") % (limits.INTEGER_MAX >> STAMP_BITS) << STAMP_BITS


class Holding(NamedTuple):
    """A worker says that it holds, or has finished, a request whose client this broker has not heard yet."""

    worker: Worker
    until: float


class State:
    """The tables of the core.

    Attributes:
        bereft: the broker before did not end in order, so that its workers are on their way to this one.
        now: time of the event at hand, in seconds of a monotonic clock.
        out: actions decided since the event came in.
        sessions: by session key; ``clients`` by the route of the connection.
        accounts: what holders of keys have used, by their names.
        instances: workers by instance; ``workers`` by route.
        queues: by op and model, the model being the name of one that a worker lists, empty, or ANY.
        large_bytes: bytes of all outstanding requests' bodies over SMALL_BYTES, and of the states of streams.
        flights: the request that computes some content now, by its key.
        holdings: what workers brought along from an earlier epoch, by ``(session, request id)``.
        parked: requests that must not run again, waiting for the worker that may hold them.
        asked: streams that were cut off, whose clients have been asked to send them again with what they have.
        affinity: the worker that an affinity key was last sent to.
        guard: what the guard of this machine said last; ``roster`` is what workers served that have been here.
    """

    def __init__(self, config: Config, epoch: str, machine: str, now: float, *, bereft: bool = False) -> None:
        self.machine = machine
        self.bereft = bereft
        self.config = config
        self.epoch = epoch
        self.started = now
        self.now = now
        self.out: list[Action] = []
        self.timers = Timers()
        self.metrics = Metrics()
        self.sessions: dict[bytes, Session] = {}
        self.clients: dict[bytes, Session] = {}
        self.accounts: dict[str, Account] = {}
        self.instances: dict[bytes, Worker] = {}
        self.workers: dict[bytes, Worker] = {}
        self.queues: dict[tuple[str, str], Queue] = {}
        self.catalogue = Catalogue()
        self.guard = Guard()
        self.roster = Roster()
        self.large_bytes = 0
        self.flights: dict[Key, Request] = {}
        self.cache = ResultCache(config.cache_max_bytes, config.cache_ttl_s)
        self.quarantine = Quarantine(config.quarantine_s)
        self.holdings: dict[tuple[bytes, int], Holding] = {}
        self.parked: dict[tuple[bytes, int], Request] = {}
        self.asked: dict[Request, None] = {}
        self.affinity: OrderedDict[bytes, Worker] = OrderedDict()
        self.records: list[dict[str, Any]] = []
        self.record_requests = False
        self._stamp = _first_stamp(epoch)
        self._crowded_until = 0.0

    def stamp(self) -> int:
        """Return a number higher than all before: job ids, dispatch order and versions come from here."""
        self._stamp += 1
        return self._stamp

    def is_early(self) -> bool:
        """Whether who knew an earlier broker may still be on the way to this one."""
        return self.now < self.started + self.config.rejoin_s

    def workers_are_expected(self, request: Request) -> bool:
        """Whether a request may wait for workers of an earlier broker: it knew that one, or that one was killed."""
        knew = request.flags & Flag.RESEND or request.session.returning or request.attempts > 0
        return self.is_early() and (self.bereft or bool(knew))

    def held_bytes(self) -> int:
        """Return what all outstanding requests take: REQUEST_BYTES for each, large bodies and states."""
        return (self.metrics.accepted - self.metrics.answered) * REQUEST_BYTES + self.large_bytes

    def keep(self, request: Request, kept: Kept | None) -> bool:
        """Replace the state of an accepted stream; False, and nothing is done, if there is no room for the new one."""
        before = len(request.kept.data) if request.kept is not None else 0
        more = (len(kept.data) if kept is not None else 0) - before
        session, config = request.session, self.config
        too_much = session.large_bytes + more > config.client_max_request_bytes
        if more > 0 and (too_much or self.held_bytes() + more > config.requests_max_bytes):
            return False
        request.kept = kept
        request.charged += more
        session.large_bytes += more
        self.large_bytes += more
        return True

    def to_client(self, session: Session, message: Message, frames: Sequence[Frame] = ()) -> None:
        """Send to a client, or keep the message while its connection is gone."""
        if session.away is None:
            self.out.append(ToClient(session.route, message, frames))
            return
        session.away.append((message, frames))
        session.away_bytes += AWAY_MESSAGE_BYTES + sum(map(len, frames))
        if session.away_bytes > self.config.client_max_bytes and session.alarm is not None:
            self.timers.set(session.alarm, self.now, self.now)  # Looked after at once, it is ended.

    def to_worker(self, worker: Worker, message: Message, frames: Sequence[bytes] = ()) -> None:
        """Send to a worker."""
        self.out.append(ToWorker(worker.route, message, frames))

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Decide to write one log line."""
        self.out.append(Log(level, event, fields))

    def alarm(self, after_s: float, call: Callable[[], None]) -> Alarm:
        """Have ``call`` called after a time; returns what to give to ``timers.set`` or ``timers.remove``."""
        alarm = Alarm(call)
        self.timers.set(alarm, self.now + after_s, self.now)
        return alarm

    def queue_for(self, op: str, model: str) -> Queue | None:
        """Return the queue of an op and model, made on first use; None when there are too many."""
        queue = self.queues.get((op, model))
        if queue is not None:
            return queue
        if len(self.queues) >= QUEUES_MAX:
            if self.now < self._crowded_until:
                return None
            if not self._drop_idle_queues():
                self._crowded_until = self.now + CROWDED_S
                return None
        workers = [worker for worker in self.instances.values() if worker.serves(op, model)]
        queue = Queue((op, model), self.metrics.op((op, model) if workers else NOBODY))
        self.queues[op, model] = queue
        for worker in workers:
            self.join(worker, queue)
        self.settle(queue)
        return queue

    def home(self, op: str, model: str) -> Queue | None:
        """Return the queue, if there is one, where a request for an op and model is to wait."""
        return self.queues.get((op, model)) or self.queues.get((op, self.catalogue.shelf(op, model)))

    def belongs(self, request: Request) -> Queue:
        """Return the queue where a request that has one is to wait now: workers with its model may have come since."""
        op, model = request.op, request.model
        queue = self.home(op, model) or self.queue_for(op, self.catalogue.shelf(op, model)) or request.queue
        assert queue is not None  # noqa: S101  it was admitted to one
        return queue

    def join(self, worker: Worker, queue: Queue) -> None:
        """Have the worker serve the queue."""
        worker.queues.append(queue)
        queue.pool.workers.add(worker)
        queue.metrics = self.metrics.op(queue.key)
        if worker.state in COMING:
            queue.gone_at = None
        queue.pool.note(worker)

    def settle(self, queue: Queue, *, anew: bool = False) -> None:
        """See whether the queue's workers compute the same as before; if not, or if ``anew``, share no result of then.

        A worker that loads computes nothing yet.
        """
        workers = {worker for worker in queue.pool.workers if worker.state is not WorkerState.LOADING}
        origins = [worker.origin(*queue.key) for worker in workers]
        origin = origins[0] if origins and all(each == origins[0] for each in origins) else None
        queue.founders &= workers
        if queue.founders and origin == queue.origin and not anew:
            return
        if queue.source:
            self.cache.drop_source(queue.source)
        queue.origin, queue.founders = origin, workers
        queue.source = 0 if origin is None else self.stamp()

    def offer(self, old: Kind | None, new: Kind | None) -> None:
        """Take account of a worker that came, went or changed: requests may belong into other queues now."""
        if self.catalogue.replace(old, new):
            for op, model in list(self.queues):
                if model == ANY:
                    self._sort_out(op)
            self._drop_idle_queues(self._superseded)

    def _superseded(self, queue: Queue) -> bool:
        """Whether its model is one of those that go to the queue for ANY, and there are workers for that."""
        op, model = queue.key
        return op in self.catalogue.open and self.catalogue.shelf(op, model) == ANY != model

    def _sort_out(self, op: str) -> None:
        """Move requests whose model is listed now."""
        queue = self.queues[op, ANY]
        for request in [each for each in queue if self.catalogue.lists(op, each.model)]:
            target = self.queue_for(op, request.model)
            if target is not None:
                queue.remove(request)
                target.push(request)
                for follower in request.followers or ():
                    follower.queue = target

    def _drop_idle_queues(self, fit: Callable[[Queue], bool] | None = None) -> bool:
        used = {request.queue for session in self.sessions.values() for request in session.outstanding.values()}
        idle = [key for key, queue in self.queues.items() if queue not in used and (fit is None or fit(queue))]
        for key in idle:
            queue = self.queues.pop(key)
            self.cache.drop_source(queue.source)
            for worker in queue.pool.workers:
                worker.queues.remove(queue)
            if queue.alarm:
                self.timers.remove(queue.alarm)
        return bool(idle)
