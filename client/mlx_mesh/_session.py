"""The client's side of the protocol. No socket, clock, thread or random number inside.

Every method takes the time and puts messages to send into ``outbox``; answers go to the ``done`` and ``piece``
callbacks of each request. The shells (:mod:`._sync` and :mod:`._async`) own the socket.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from mlx_mesh._agenda import Agenda
from mlx_mesh._retry import RetryBudget
from mlx_mesh_wire import (
    CancelledError,
    DeadlineExceededError,
    DecodeError,
    Flag,
    MeshError,
    OverloadedError,
    ProtocolError,
    UnauthorizedError,
    error_from_wire,
    limits,
    messages,
    unpack_body,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh._pending import Pending
    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.messages import Message

WAITING_MAX = 1024
"""Calls that may wait in the client for one of the places that the broker grants it."""

OUTSTANDING = 64
"""Places before WELCOME tells the number."""

PAUSE_S = 1.0
"""With work outstanding the session is looked after every ``ping_s``. This much later means that the process was
stopped, or that its event loop was blocked.
"""

KEEPALIVE_S = 30.0
"""An idle client says something this often, so that the broker does not forget it."""


class Session:
    """All calls of one client object, over all its connections.

    Args:
        key: 16 random bytes.
        name: shown to operators.
        endpoint: named in error messages.
        random: numbers from 0 to 1, for jitter.

    Attributes:
        outbox: messages to send, each with its body frames.
        reconnect: the shell is to make a new connection and call :meth:`connected`.
        epoch: the broker's, empty until the first WELCOME.
    """

    def __init__(self, key: bytes, name: str, endpoint: str, random: Callable[[], float]) -> None:
        self._key = key
        self._name = name
        self._endpoint = endpoint
        self._budget = RetryBudget(random)
        self._next_id = 1
        self._outstanding: dict[int, Pending] = {}
        self._lanes: tuple[dict[Pending, None], dict[Pending, None], dict[Pending, None]] = ({}, {}, {})
        self._waiting = 0
        self._agenda = Agenda()
        self._places = OUTSTANDING
        self._ping_s = 1.0
        self._silent_s = 5.0
        self._heard = 0.0
        self._said = 0.0
        self._greeted = 0.0
        self._pinged = 0.0
        self._awake = 0.0
        self._welcomed = False
        self.epoch = ""
        self.reconnect = False
        self.outbox: deque[tuple[Message, Sequence[Frame]]] = deque()
        self._on: dict[type, Callable[[float, Any, Sequence[bytes]], None]] = {
            messages.Final: self._final,
            messages.Chunk: self._chunk,
            messages.Error: self._error,
            messages.Again: self._again,
            messages.Welcome: self._welcome,
            messages.Reset: self._reset,
            messages.Ping: self._ping,
        }

    def __len__(self) -> int:
        return len(self._outstanding) + self._waiting

    @property
    def welcomed(self) -> bool:
        """Whether the broker has answered on this connection."""
        return self._welcomed

    def connected(self, now: float) -> None:
        """A connection was made: greet, and send again what is outstanding."""
        self.reconnect = False
        self._heard = self._pinged = self._awake = now
        self._greet(now)

    def start(self, now: float, pending: Pending) -> None:
        """Begin a call; one that finds no place waits, and one too many is refused at once."""
        self._budget.earn()
        self._awake = now
        if self._waiting >= WAITING_MAX:
            text = f"{WAITING_MAX} calls wait in this client already; send fewer at once, or open another client"
            self._end(pending, OverloadedError(text, retryable=True), ())
            return
        self._agenda.add(pending.due, pending, retry=False)
        self._submit(now, pending)

    def cancel(self, pending: Pending) -> None:
        """The caller lost interest: nothing more is told about this call."""
        if pending.ended:
            return
        pending.ended = True
        if self._outstanding.pop(pending.id, None) is not None:
            self._say(messages.Cancel(pending.id))
        self._unqueue(pending)
        self._agenda.ended()

    def read(self, now: float, pending: Pending) -> None:
        """The caller took a chunk: grant credit for it, or do so later for several."""
        credit = pending.take(now)
        if credit and not pending.ended:
            self._say(messages.Credit(pending.id, credit))

    def message(self, now: float, message: Message, frames: Sequence[bytes]) -> None:
        """Handle a message from the broker; types that do not concern a client are ignored."""
        self._heard = self._awake = now
        handler = self._on.get(type(message))
        if handler is not None:
            handler(now, message, frames)

    def tick(self, now: float) -> None:
        """Do what the time demands: deadlines, retries, pings, a new connection."""
        self._notice_pause(now)
        while (item := self._agenda.due(now)) is not None:
            pending, retry = item
            if retry:
                self._submit(now, pending)
            else:
                self._expire(pending)
        self._fill(now)
        self._mind_silence(now)

    def next_tick(self) -> float:
        """Return when ``tick`` has something to do."""
        if self.reconnect or (self._waiting and len(self._outstanding) < self._places):
            return 0.0  # A cancel made room.
        due = self._said + KEEPALIVE_S
        if self._outstanding:
            due = min(due, max(self._heard, self._pinged) + self._ping_s, self._heard + self._silent_s)
        first = self._agenda.next()
        return due if first is None else min(due, first)

    def close(self, why: MeshError) -> None:
        """End every call and say goodbye."""
        self.end_all(why)
        self._say(messages.Bye("closed"))

    def end_all(self, why: MeshError) -> None:
        """End every call; the next may find the way free again."""
        for pending in [*self._outstanding.values(), *(p for lane in self._lanes for p in lane)]:
            self._end(pending, why, ())
            self._unqueue(pending)
        for pending in list(self._agenda):
            if not pending.ended:
                self._end(pending, why, ())
        self._outstanding.clear()

    def _submit(self, now: float, pending: Pending) -> None:
        if len(self._outstanding) < self._places and not self._waiting:
            self._send(now, pending)
        else:
            self._lanes[pending.call.lane][pending] = None
            self._waiting += 1

    def _fill(self, now: float) -> None:
        """Send what waits, higher lanes first, as far as there are places."""
        while self._waiting and len(self._outstanding) < self._places:
            pending = next(iter(next(lane for lane in self._lanes if lane)))
            self._unqueue(pending)
            self._send(now, pending)

    def _unqueue(self, pending: Pending) -> None:
        lane = self._lanes[pending.call.lane]
        if pending in lane:
            del lane[pending]
            self._waiting -= 1

    def _send(self, now: float, pending: Pending) -> None:
        pending.id = self._next_id
        self._next_id += 1
        pending.sent = False
        self._outstanding[pending.id] = pending
        if len(self._outstanding) == 1:
            # Silence counts from when there is something to hear.
            self._heard = max(self._heard, now)
        self._transmit(now, pending)

    def _transmit(self, now: float, pending: Pending) -> None:
        call = pending.call
        if call.op == STATUS_OP:
            self._say(messages.Status(pending.id))
            return
        if pending.at_most_once and not self._welcomed:
            return  # A broker that never answers must not leave it unknown whether it has run.
        flags = call.flags | Flag.RESEND if pending.sent else call.flags
        pending.sent = pending.on_wire = True
        remaining_ms = max(1, int((pending.due - now) * 1000))
        self._said = now
        window = pending.room() if call.window else 0
        frames = call.frames
        state = pending.received.state() if pending.received is not None and pending.next_seq else None
        if state is not None:
            flags |= Flag.RESUMED
            frames = [*frames, state]
        request = messages.Request(
            pending.id, call.op, call.model, call.lane, remaining_ms, flags, window, call.affinity, call.traceparent,
            pending.next_seq,
        )  # fmt: skip
        self.outbox.append((request, frames))

    def _greet(self, now: float) -> None:
        """Say HELLO, and again all that is outstanding."""
        self._welcomed = False
        self._said = self._greeted = now
        hello = messages.Hello(limits.PROTOCOL_MAJOR, limits.PROTOCOL_MINOR, self._key, self._name, self.epoch)
        self._say(hello)
        for pending in self._outstanding.values():
            pending.on_wire = False
            self._transmit(now, pending)

    def _say(self, message: Message) -> None:
        self.outbox.append((message, ()))

    def _final(self, now: float, message: messages.Final, frames: Sequence[bytes]) -> None:
        pending = self._outstanding.get(message.id)
        if pending is None:
            return
        if message.chunks > pending.next_seq and pending.piece is not None:
            self._ask_again(now, pending)
            return
        del self._outstanding[message.id]
        self._end(pending, message, frames)
        if self._waiting:
            self._fill(now)

    def _chunk(self, now: float, message: messages.Chunk, frames: Sequence[bytes]) -> None:
        pending = self._outstanding.get(message.id)
        if pending is None or pending.piece is None:
            return
        if message.seq < pending.next_seq:
            # The stream began anew elsewhere; the reader has these already.
            self._say(messages.Credit(pending.id, 1))
        elif message.seq == pending.next_seq:
            pending.next_seq += 1
            pending.incomplete = 0.0
            if pending.received is not None:
                pending.received.add(frames)
            pending.piece(frames)
        elif not pending.incomplete:
            self._ask_again(now, pending)
        elif now - pending.incomplete >= self._silent_s:
            self.reconnect = True  # The broker takes it that this connection loses nothing; it did.

    def _ask_again(self, now: float, pending: Pending) -> None:
        """Chunks were lost with an earlier connection: have the stream go on from the last one that came."""
        pending.incomplete = now
        self._transmit(now, pending)

    def _again(self, now: float, message: messages.Again, frames: Sequence[bytes]) -> None:
        """A stream was cut off, and the broker asks from where it is to go on."""
        pending = self._outstanding.get(message.id)
        if pending is None:
            self._say(messages.Cancel(message.id))  # An earlier CANCEL was lost with its connection.
            return
        if pending.piece is None:
            return
        pending.moved += pending.next_seq > 0
        if message.chunks > pending.next_seq:
            self.reconnect = True  # Some were lost, and may be only where a connection ends.
        else:
            self._transmit(now, pending)

    def _error(self, now: float, message: messages.Error, frames: Sequence[bytes]) -> None:
        if message.id == 0:
            self._connection_error(message)
            return
        pending = self._outstanding.pop(message.id, None)
        if pending is None:
            return
        error = error_from_wire(
            message.code, message.message, message.retryable, message.retry_after_ms, _details(frames)
        )
        pause_s = None if pending.next_seq else self._budget.pause_s(error, pending.retries)
        if pause_s is None or now + pause_s >= pending.due:
            self._end(pending, error, frames)
        else:
            pending.retries += 1
            pending.sent = False
            self._agenda.add(now + pause_s, pending, retry=True)
        self._fill(now)

    def _connection_error(self, message: messages.Error) -> None:
        """A protocol error of the connection as a whole: no call of ours can succeed on it."""
        if message.code == "UNAUTHORIZED":
            self.end_all(UnauthorizedError(message.message))
        elif message.code == "PROTOCOL_ERROR" and not self._welcomed:
            for pending in list(self._outstanding.values()):
                self._end(pending, ProtocolError(message.message), ())
            self._outstanding.clear()

    def _welcome(self, now: float, message: messages.Welcome, frames: Sequence[bytes]) -> None:
        self._welcomed = True
        if message.epoch != self.epoch:
            for pending in self._outstanding.values():
                pending.moved += pending.next_seq > 0
        self.epoch = message.epoch
        self._places = message.limits.get("outstanding_max", OUTSTANDING)
        # An interval of 0 is none: the client would ping, or connect anew, without end.
        self._ping_s = (message.intervals.get("ping_ms") or 1000) / 1000
        self._silent_s = (message.intervals.get("silent_ms") or 5000) / 1000
        for pending in [each for each in self._outstanding.values() if each.at_most_once and not each.on_wire]:
            self._transmit(now, pending)
        self._fill(now)

    def _reset(self, now: float, message: messages.Reset, frames: Sequence[bytes]) -> None:
        dropped = self._outstanding.get(message.dropped)
        if dropped is not None and not dropped.next_seq:
            dropped.sent = False
        # Messages that were on their way with the HELLO are each answered by a RESET; one that comes much later means
        # that the HELLO itself was lost, or is slow. A second one on this connection could take the first one's WELCOME
        # for its own, and with it chunks that the REQUESTs behind it do not count.
        if self._welcomed:
            self._greet(now)
        elif now - self._greeted >= self._ping_s:
            self.reconnect = True

    def _ping(self, now: float, message: messages.Ping, frames: Sequence[bytes]) -> None:
        self._say(messages.Pong(message.nonce))

    def _notice_pause(self, now: float) -> None:
        """Not having run is no silence of the broker: what it said meanwhile has not been read yet."""
        asleep = now - self._awake
        self._awake = now
        if asleep > PAUSE_S + self._ping_s:
            self._heard = min(now, self._heard + asleep)

    def _mind_silence(self, now: float) -> None:
        if self._outstanding and now - self._heard >= self._silent_s:
            self.reconnect = True
            self._heard = now
        elif self._outstanding and now - max(self._heard, self._pinged) >= self._ping_s:
            self._pinged = now
            self._say(messages.Ping(1))
        elif now - self._said >= KEEPALIVE_S:
            self._said = now
            self._say(messages.Ping(0))

    def _expire(self, pending: Pending) -> None:
        known = self._outstanding.pop(pending.id, None)
        if known is not None:
            self._say(messages.Cancel(pending.id))
        self._unqueue(pending)
        if self._welcomed:
            text = f"no answer to {pending.call.op!r} within {pending.call.timeout_s:g} s"
        else:
            text = (
                f"no broker answered at {self._endpoint} within {pending.call.timeout_s:g} s; start one with "
                "`mlx-mesh up`, or say where it is with MLX_MESH_ENDPOINT"
            )
        pending.ended = True
        pending.done(DeadlineExceededError(text), ())

    def _end(self, pending: Pending, outcome: messages.Final | MeshError, frames: Sequence[bytes]) -> None:
        pending.ended = True
        pending.done(outcome, frames)
        self._agenda.ended()


STATUS_OP = "mesh.status"
"""Stands for STATUS in a :class:`Pending`; never sent as an op."""


def result_of(frames: Sequence[bytes]) -> Any:
    """Return the value of a FINAL's or CHUNK's frames."""
    return unpack_body(frames)


def closed_error() -> CancelledError:
    """Return what calls of a closed client get."""
    return CancelledError("this client is closed; make a new one")


def _details(frames: Sequence[bytes]) -> dict[str, Any]:
    if not frames:
        return {}
    try:
        details = unpack_body(frames)
    except DecodeError:
        return {}
    return details if isinstance(details, dict) else {}
