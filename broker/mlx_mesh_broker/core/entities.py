"""What the broker knows of a request, a client and a worker: plain records, changed by the modules beside this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlx_mesh_broker.core.catalogue import ANY
from mlx_mesh_broker.core.lifecycle import WorkerState
from mlx_mesh_wire.messages import Flag, Lane

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Collection, Sequence

    from mlx_mesh_broker.core.catalogue import Kind
    from mlx_mesh_broker.core.queues import Queue
    from mlx_mesh_broker.core.quotas import Account, Holder
    from mlx_mesh_broker.core.sharing import Key
    from mlx_mesh_broker.core.timers import Alarm
    from mlx_mesh_wire import messages
    from mlx_mesh_wire.bundle import Mail


SMALL_BYTES: Final = 2048
"""A body up to this size is counted by the piece; adding up every small one would cost each request 1.5 us."""

REQUEST_BYTES: Final = 2048 + SMALL_BYTES
"""What a request takes at most, unless its body is larger than that; the broker's own records take 2 KiB."""


BULK: Final = int(Lane.BULK)
"""As a plain number: each request is asked four times whether it is that, and a member of an enumeration is found and
compared ten times slower.
"""

PROGRESS_CHUNKS: Final = 4
"""So many new chunks in one attempt clear a stream of what was held against it. What kills a worker does so at the same
token again, and a worker that died had computed at most one token or two beyond those that came here.
"""

KEPT_PLACES: Final = 2
"""Places of a worker that bulk work never takes, or a quarter of its slots if that is less: one for the interactive
request that is computed, one for the next. Otherwise a place that an interactive request leaves is taken by bulk work
before its client has read the answer and asked again, and the next question waits for a bulk job to end.
"""


class Kept(NamedTuple):
    """What the reader of a stream has: the number of its chunks, and the state from which a worker can go on."""

    seen: int
    data: bytes


class Request:
    """A request from its acceptance to its answer.

    It is in exactly one place: a queue, a worker, behind its leader, parked until the worker that may hold it is back,
    or with its client, which was asked to send it again.

    Attributes:
        due: the deadline, in seconds of the broker's clock; ``tick`` is the wheel's.
        worker: who holds the job now, if any; ``job_id`` is that of the attempt, ``job_due`` the deadline that it told.
        deaths: workers that died while they computed it, since it last made progress.
        fruitless: attempts since then; ``attempts`` are all.
        first_seq: number of the first chunk that this attempt can bring.
        leader: the equal request whose computation this one shares; ``followers`` are its counterparts.
        key: what is equal, if it may be shared or cached.
        next_seq: sequence number of the chunk that the client is to get next.
        base_seq: of a stream: chunks from this number on went over the client's connection of now, or are kept for it.
        credit: chunks that the reader still has room for; ``starved_at`` is since when it has none.
        lent: this attempt begins anew, and was given a unit of credit that the reader has not granted.
        kept: what a stream goes on from if it is run again; outdated once more chunks have come.
        size: bytes of body and buffers.
        charged: bytes that count besides REQUEST_BYTES: those of a large body, and of the state.
    """

    __slots__ = (
        "affinity", "arrived", "attempts", "base_seq", "charged", "credit", "deaths", "dispatched", "due",
        "first_seq", "flags", "followers", "frames", "fruitless", "id", "job_due", "job_id", "kept", "key", "lane",
        "leader", "lent", "model", "next_seq", "op", "queue", "session", "size", "starved_at", "stream", "tick",
        "traceparent", "waiting", "worker",
    )  # fmt: skip

    def __init__(self, session: Session, message: messages.Request, frames: Sequence[bytes], now: float) -> None:
        (
            self.id, self.op, self.model, self.lane, remaining_ms, self.flags, window, self.affinity, self.traceparent,
            self.next_seq,
        ) = message  # fmt: skip
        self.session = session
        self.kept: Kept | None = None
        self.stream = bool(window or self.next_seq)
        if self.stream:
            frames = self._begin_stream(window, frames, now)
        self.frames = frames
        self.size = size = sum(map(len, frames))
        self.charged = size if size > SMALL_BYTES else 0
        if self.kept is not None:
            self.charged += len(self.kept.data)
        self.arrived = now
        self.due = now + remaining_ms / 1000
        self.tick = -1
        self.queue: Queue | None = None
        self.waiting = False
        self.worker: Worker | None = None
        self.job_id = 0
        self.job_due = 0.0
        self.attempts = 0
        self.fruitless = 0
        self.first_seq = 0
        self.deaths = 0
        self.dispatched = 0.0
        self.leader: Request | None = None
        self.followers: OrderedDict[Request, None] | None = None
        self.key: Key | None = None

    def _begin_stream(self, window: int, frames: Sequence[bytes], now: float) -> Sequence[bytes]:
        """Take over what the reader has and has room for; return the frames of the request itself."""
        self.base_seq = self.next_seq
        self.credit = window
        self.lent = False
        self.starved_at = 0.0 if window else now
        if not self.flags & Flag.RESUMED:
            return frames
        self.flags &= ~Flag.RESUMED
        if not self.flags & Flag.RESUMABLE:
            return frames
        if self.next_seq and len(frames) > 1:
            self.kept = Kept(self.next_seq, frames[-1])
        return frames[:-1]

    @property
    def at_most_once(self) -> bool:
        """Whether it must not run again once a worker may have started it."""
        return bool(self.flags & Flag.AT_MOST_ONCE)


class Session:
    """A client, over all its connections.

    Attributes:
        large_bytes: bytes of its outstanding requests' bodies over SMALL_BYTES, and of the states of its streams.
        away: held messages of a client whose connection is gone; None while it is connected.
        told: ids of requests whose answers were held for it and went out when it came back on this connection.
        returning: it knew an earlier broker, so its workers may be on their way back too.
        account: that of its key, for good; ``holder`` is what the key may do as of its last message. None without keys.
    """

    __slots__ = (
        "account",
        "alarm",
        "away",
        "away_bytes",
        "away_since",
        "heard",
        "holder",
        "key",
        "large_bytes",
        "name",
        "outstanding",
        "returning",
        "route",
        "told",
    )

    def __init__(self, key: bytes, route: bytes, name: str, returning: bool, now: float) -> None:
        self.key = key
        self.account: Account | None = None
        self.holder: Holder | None = None
        self.route = route
        self.name = name
        self.returning = returning
        self.large_bytes = 0
        self.heard = now
        self.outstanding: dict[int, Request] = {}
        self.away: list[Mail] | None = None
        self.told: Collection[int] = ()
        self.away_bytes = 0
        self.away_since = 0.0
        self.alarm: Alarm | None = None


class Worker:
    """A worker process.

    Attributes:
        jobs: what it holds, by job id; ``bulk`` of these are of the bulk lane.
        capacity: how many jobs it may hold; ``bulk_capacity`` of them may be of the bulk lane.
        used: number of the last dispatch to it, for "least recently used".
        version: changes with every change of its load, so that old entries of the pools can be told.
        progressed: when its compute last advanced, or when it last went from idle to busy.
        loading_since: when it first said that it loads, since it was last ready.
        lowest: the lowest lane of which it gets new jobs; higher than bulk while its machine is short of memory.
        drained_by: who had it drained, ``operator``, ``guard`` or ``worker``; empty unless it is draining.
        quiet: whether it said itself that it drains, which only its own word ends.
        holder: who holds its key, as of its last message; None where there are no keys.
    """

    __slots__ = (
        "alarm", "beat", "bulk", "bulk_capacity", "capacity", "cursor", "drained_by", "heard", "holder", "info",
        "jobs", "joined", "loading_since", "lowest", "models", "ops", "progress", "progressed", "pure_ops", "queues",
        "quiet", "remote", "route", "served", "slots", "state", "used", "version", "warm",
    )  # fmt: skip

    def __init__(self, route: bytes, info: messages.Ready | messages.Loading, prefetch: int, now: float) -> None:
        self.route = route
        self.state = WorkerState.LOADING
        self.jobs: dict[int, Request] = {}
        self.bulk = 0
        self.queues: list[Queue] = []
        self.cursor = 0
        self.used = 0
        self.version = 0
        self.served = 0
        self.joined = now
        self.loading_since = now
        self.heard = now
        self.progress = 0
        self.progressed = now
        self.remote = False
        self.lowest = Lane.BULK
        self.drained_by = ""
        self.quiet = False
        self.holder: Holder | None = None
        self.beat: messages.Beat | None = None
        self.alarm: Alarm | None = None
        self.describe(info, prefetch)

    def describe(self, info: messages.Ready | messages.Loading, prefetch: int) -> None:
        """Take over what LOADING or READY says; ``prefetch`` is how many jobs it may hold beyond its slots."""
        self.info = info
        self.ops = frozenset(info.ops)
        self.pure_ops = frozenset(info.pure_ops)
        self.models = frozenset(info.models)
        self.warm = frozenset(info.models)
        self.slots = info.slots
        self.capacity = info.slots + prefetch
        self.bulk_capacity = info.bulk_slots or self.capacity - min(KEPT_PLACES, self.slots // 4)

    def room(self, lane: int) -> int:
        """Return how many jobs more of this lane it may be given."""
        room = self.capacity - len(self.jobs) if lane <= self.lowest else 0
        return room if lane != BULK else min(room, self.bulk_capacity - self.bulk)

    def takes(self) -> Lane:
        """Return the lowest lane that its free places are for, if it has any."""
        return Lane.STANDARD if self.lowest == Lane.BULK and self.bulk >= self.bulk_capacity else self.lowest

    def serves(self, op: str, model: str) -> bool:
        """Whether it can compute the op on the model; an empty model name means its default, ANY one of no list."""
        return op in self.ops and (not model or not self.models or (model in self.models and model != ANY))

    @property
    def kind(self) -> Kind:
        """What it has on offer."""
        return self.ops, self.models

    @property
    def computes(self) -> tuple[Any, ...]:
        """What its results depend on besides op, model and body, as far as it says."""
        return self.pure_ops, self.info.models, self.info.versions

    def origin(self, op: str, model: str) -> Any:
        """Return what results for a queue depend on besides the body; None if they may not be used again."""
        if op not in self.pure_ops:
            return None
        default = self.info.models[0] if self.info.models else ""
        return model or default, self.info.versions

    def summary(self) -> dict[str, Any]:
        """Return the name and pid, for logs."""
        return {"worker": self.info.name, "pid": self.info.pid}
