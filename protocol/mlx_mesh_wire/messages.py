"""The messages of protocol version 1: one immutable tuple type each.

The order of the fields is the order on the wire. Field types are exact (a bool is not an int); what they may hold is in
:mod:`fields`. ``protocol/SPEC.md`` is the authority on what each field means.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Lane(IntEnum):
    """Who waits for the answer: a person, a program, or nobody in particular."""

    INTERACTIVE = 0
    STANDARD = 1
    BULK = 2


LANE_NAMES = tuple(lane.name.lower() for lane in Lane)
"""What people call the lanes, by number: in calls, in status and in metrics."""


class Flag:
    """Bits of ``Request.flags`` and ``Job.flags``; plain integers, since IntFlag costs 2 us for every ``&``."""

    AT_MOST_ONCE = 1
    """Never run again once a worker may have started it."""
    WAIT_FOR_READY = 2
    """Queue even though no worker for the op is known yet."""
    RESEND = 4
    """The client sent this request before and does not know what became of it."""
    FRESH = 8
    """Neither answer from the result cache nor share another request's computation."""
    ALONE = 16
    """JOB only: compute in a step of its own, since a worker died while computing this before."""
    RESUMABLE = 32
    """The client of this stream can say what its reader has, so that another worker goes on from there."""
    RESUMED = 64
    """The last buffer is the state that the stream goes on from; body and other buffers are those of its beginning."""


class FinalFlag:
    """Bits of ``Final.flags``."""

    CACHED = 1
    SHARED = 2


FLAGS_MAX = 2**16 - 1


class Hello(NamedTuple):
    """Client to broker: the first message on every connection and after each RESET."""

    major: int
    minor: int
    session: bytes
    name: str
    last_epoch: str


class Welcome(NamedTuple):
    """Broker to client or worker: the connection stands; limits and intervals in force."""

    major: int
    minor: int
    epoch: str
    limits: dict[str, int]
    intervals: dict[str, int]


class Request(NamedTuple):
    """Client to broker: compute this. The body and the buffers follow as further frames.

    ``seen`` is the number of chunks that the reader of a stream has, 0 at first; ``window`` counts from there.
    """

    request_id: int
    op: str
    model: str
    lane: int
    remaining_ms: int
    flags: int
    window: int
    affinity: bytes
    traceparent: str
    seen: int = 0


class Chunk(NamedTuple):
    """A piece of a stream. ``id`` is the request id towards clients and the job id from workers."""

    id: int
    seq: int


class Final(NamedTuple):
    """The result. ``queue_us`` is the wait and ``service_us`` the computing, in microseconds.

    ``chunks`` is how many came before it, so that a reader can tell whether it has them all.
    """

    id: int
    attempts: int
    queue_us: int
    service_us: int
    flags: int
    chunks: int = 0


class Error(NamedTuple):
    """A typed failure; ``id`` 0 concerns the connection. An optional body is a map of details."""

    id: int
    code: str
    message: str
    retryable: bool
    retry_after_ms: int


class Again(NamedTuple):
    """Broker to client: the attempt at this stream is lost; send the REQUEST again, with what the reader has.

    ``chunks`` is how many were sent.
    """

    id: int
    chunks: int


class Cancel(NamedTuple):
    """Stop computing; the one who sends it wants no answer."""

    id: int


class Credit(NamedTuple):
    """The reader has room for ``chunks`` more chunks."""

    id: int
    chunks: int


class Ping(NamedTuple):
    """Either side: answer with PONG and the same nonce."""

    nonce: int


class Pong(NamedTuple):
    """The answer to PING."""

    nonce: int


class Bye(NamedTuple):
    """The sender leaves; nothing more follows."""

    reason: str


class Reset(NamedTuple):
    """Broker to a peer it does not know: say HELLO (or READY) and send again what is outstanding.

    ``dropped`` is the id of the REQUEST that this answers, which was never taken in; 0 for any other message, and for
    a REQUEST with RESEND, of which that cannot be told.
    """

    epoch: str
    dropped: int = 0


class Status(NamedTuple):
    """Client to broker: send the status map as the body of a FINAL with this id."""

    id: int


class Bundle(NamedTuple):
    """Several small messages in one. ``sizes`` are in bytes: header, body, header, body, ...; a body of 0 is none."""

    sizes: list[int]


class Loading(NamedTuple):
    """Worker to broker: alive and loading; READY will follow within ``load_max_ms``.

    ``bulk_slots`` is how many jobs of the bulk lane it takes at once at most; 0 leaves that to the broker.
    """

    major: int
    minor: int
    instance: bytes
    name: str
    host: str
    machine: str
    pid: int
    pid_start: int
    ops: list[str]
    pure_ops: list[str]
    models: list[str]
    slots: int
    load_max_ms: int
    versions: dict[str, str]
    bulk_slots: int = 0


class Ready(NamedTuple):
    """Worker to broker: loaded and warmed up. The fields are those of LOADING."""

    major: int
    minor: int
    instance: bytes
    name: str
    host: str
    machine: str
    pid: int
    pid_start: int
    ops: list[str]
    pure_ops: list[str]
    models: list[str]
    slots: int
    load_max_ms: int
    versions: dict[str, str]
    bulk_slots: int = 0


class Held(NamedTuple):
    """Worker to broker, before READY: jobs it still holds, each ``[session, request_id, attempt]``."""

    instance: bytes
    jobs: list[list[bytes | int]]


class Job(NamedTuple):
    """Broker to worker: one attempt at a request. The body and the buffers follow unchanged.

    ``seen`` is the number of chunks of the stream that the state covers, with flag RESUMED; 0 otherwise.
    """

    job_id: int
    attempt: int
    session: bytes
    request_id: int
    op: str
    model: str
    lane: int
    remaining_ms: int
    flags: int
    window: int
    affinity: bytes
    traceparent: str
    seen: int = 0


class Return(NamedTuple):
    """Worker to broker: not started, give it to another."""

    job_id: int
    reason: str


class Beat(NamedTuple):
    """Worker to broker, every ``beat_ms``: alive, and how far along.

    ``memory`` is in bytes: ``rss``, ``mlx_active``, ``mlx_cache``, ``mlx_peak`` and what engines add. ``counters`` are
    what the engine has counted since it was loaded.
    """

    progress: int
    held: int
    draining: bool
    running: list[int]
    warm: list[str]
    memory: dict[str, int]
    counters: dict[str, int]


class Quiet(NamedTuple):
    """``on``: take nothing new (drain). Off: serve again. Either side may start it."""

    on: bool


class Trim(NamedTuple):
    """Broker to worker: give memory back. Level 1 clears caches, 2 shrinks batches too; 0: it is short no more."""

    level: int


class Dump(NamedTuple):
    """Broker to worker: write the stacks of all threads to the log. ``reason`` is why, for whoever reads them."""

    reason: str


class Command(NamedTuple):
    """Operator to broker on the control socket; the body is a map of arguments."""

    id: int
    name: str


class Events(NamedTuple):
    """Broker to subscribers; the body is a list of that many maps."""

    records: int


Message = (
    Hello
    | Welcome
    | Request
    | Chunk
    | Final
    | Error
    | Again
    | Cancel
    | Credit
    | Ping
    | Pong
    | Bye
    | Reset
    | Status
    | Bundle
    | Loading
    | Ready
    | Held
    | Job
    | Return
    | Beat
    | Quiet
    | Trim
    | Dump
    | Command
    | Events
)

TYPE_CODES: dict[type[Message], int] = {
    Hello: 1,
    Welcome: 2,
    Request: 3,
    Chunk: 4,
    Final: 5,
    Error: 6,
    Cancel: 7,
    Credit: 8,
    Ping: 9,
    Pong: 10,
    Bye: 11,
    Reset: 12,
    Status: 13,
    Bundle: 14,
    Again: 15,
    Loading: 32,
    Ready: 33,
    Held: 34,
    Job: 35,
    Return: 36,
    Beat: 37,
    Quiet: 38,
    Trim: 39,
    Dump: 40,
    Command: 48,
    Events: 49,
}
"""Message type to the integer that stands first in its header."""
