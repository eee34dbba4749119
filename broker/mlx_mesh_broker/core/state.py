"""What the parts of the core share: the tables, the clock of the event at hand, and the actions decided so far."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_mesh_broker.core.actions import Action, Log, ToClient, ToWorker
from mlx_mesh_broker.core.lifecycle import COMING
from mlx_mesh_broker.core.metrics import Metrics
from mlx_mesh_broker.core.queues import Queue
from mlx_mesh_broker.core.sharing import Quarantine, ResultCache
from mlx_mesh_broker.core.timers import Alarm, Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core.config import Config
    from mlx_mesh_broker.core.entities import Request, Session, Worker
    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.messages import Message

QUEUES_MAX = 1024
"""Pairs of op and model with a queue of their own; idle ones are dropped before a new one is refused."""

AFFINITY_MAX = 8192
"""Affinity keys remembered, the least recently used go first; at about 200 bytes each that is 2 MB."""


class Holding(NamedTuple):
    """A worker says that it holds, or has finished, a request whose client this broker has not heard yet."""

    worker: Worker
    until: float


class State:
    """The tables of the core.

    Attributes:
        now: time of the event at hand, in seconds of a monotonic clock.
        out: actions decided since the event came in.
        sessions: by session key; ``clients`` by the route of the connection.
        instances: workers by instance; ``workers`` by route.
        flights: the request that computes some content now, by content key.
        holdings: what workers brought along from an earlier epoch, by ``(session, request id)``.
        parked: requests that must not run again, waiting for the worker that may hold them.
        affinity: the worker that an affinity key was last sent to.
    """

    def __init__(self, config: Config, epoch: str, machine: str, now: float) -> None:
        self.machine = machine
        self.config = config
        self.epoch = epoch
        self.started = now
        self.now = now
        self.out: list[Action] = []
        self.timers = Timers()
        self.metrics = Metrics()
        self.sessions: dict[bytes, Session] = {}
        self.clients: dict[bytes, Session] = {}
        self.instances: dict[bytes, Worker] = {}
        self.workers: dict[bytes, Worker] = {}
        self.queues: dict[tuple[str, str], Queue] = {}
        self.flights: dict[bytes, Request] = {}
        self.cache = ResultCache(config.cache_max_bytes, config.cache_ttl_s)
        self.quarantine = Quarantine(config.quarantine_s)
        self.holdings: dict[tuple[bytes, int], Holding] = {}
        self.parked: dict[tuple[bytes, int], Request] = {}
        self.affinity: OrderedDict[bytes, Worker] = OrderedDict()
        self.records: list[dict[str, Any]] = []
        self.record_requests = False
        self._stamp = 0

    def stamp(self) -> int:
        """Return a number higher than all before: job ids, dispatch order and versions come from here."""
        self._stamp += 1
        return self._stamp

    def to_client(self, session: Session, message: Message, frames: Sequence[Frame] = ()) -> None:
        """Send to a client, or keep the message while its connection is gone."""
        if session.away is None:
            self.out.append(ToClient(session.route, message, frames))
            return
        session.away.append((message, frames))
        session.away_bytes += sum(map(len, frames))

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
        if len(self.queues) >= QUEUES_MAX and not self._drop_idle_queues():
            return None
        workers = [worker for worker in self.instances.values() if worker.serves(op, model)]
        queue = Queue((op, model), self.metrics.op((op, model) if workers else ("", "")))
        self.queues[op, model] = queue
        for worker in workers:
            self.join(worker, queue)
        return queue

    def join(self, worker: Worker, queue: Queue) -> None:
        """Have the worker serve the queue."""
        worker.queues.append(queue)
        queue.pool.workers.add(worker)
        queue.pure = queue.pure or queue.key[0] in worker.pure_ops
        if worker.state in COMING:
            queue.gone_at = None
        queue.pool.note(worker)

    def _drop_idle_queues(self) -> bool:
        used = {request.queue for session in self.sessions.values() for request in session.outstanding.values()}
        idle = [key for key, queue in self.queues.items() if queue not in used]
        for key in idle:
            queue = self.queues.pop(key)
            for worker in queue.pool.workers:
                worker.queues.remove(queue)
            if queue.alarm:
                self.timers.remove(queue.alarm)
        return bool(idle)
