"""Records what the Python client's session does, in the form that README.md describes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlx_mesh._options import Call
from mlx_mesh._pending import Pending
from mlx_mesh._session import Session, closed_error
from mlx_mesh_wire import MeshError, messages, pack_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY = b"0123456789abcdef"
BODY = [bytes(frame) for frame in pack_body("x")]
GRID_MS = 125
"""Times are multiples of an eighth of a second, which is exact as seconds and as milliseconds: no session of any
language rounds them. With the pauses that :func:`odd` makes of chance, a retry is never due on the grid.
"""


def odd(number: float) -> float:
    """Return a number between 0 and 1 near this one, an odd count of 256ths."""
    return (2 * int(number * 128) + 1) / 256


def js(value: Any) -> Any:
    """Write a field as JSON; bytes as in the other vectors."""
    return {"$bytes": value.hex()} if isinstance(value, bytes) else value


def hexes(frames: Sequence[Any]) -> list[str]:
    return [bytes(frame).hex() for frame in frames]


class Recorder:
    """A session, the time, and all that was done and seen.

    Attributes:
        now_ms: the time; whoever changes it keeps to the grid.
        sent: messages of the last step.
        pendings: the calls, by number from 1.
        ended: numbers of those with an outcome, or cancelled.
    """

    def __init__(self, name: str, random: Callable[[], float] = lambda: 0.5) -> None:
        self.name = name
        self.now_ms = 100_000
        self.sent: list[Any] = []
        self.pendings: dict[int, Pending] = {}
        self.ended: set[int] = set()
        self._random = random
        self._drawn: list[float] = []
        self._steps: list[dict[str, Any]] = []
        self._told: list[list[Any]] = []
        self._state: dict[str, Any] = {}
        self._moved: dict[int, int] = {}
        self.session = Session(KEY, "test", "ipc://nowhere", self._draw)

    def scenario(self) -> dict[str, Any]:
        """Return what was recorded."""
        return {"name": self.name, "random": self._drawn, "steps": self._steps}

    def connected(self) -> None:
        """A connection was made."""
        self._step("connected", lambda: self.session.connected(self._now))

    def start(
        self, *, op: str = "echo", lane: int = 1, timeout_ms: float = 60_000, flags: int = 0, window: int = 0
    ) -> int:
        """Begin a call; return its number."""
        number = len(self.pendings) + 1
        call = Call(op, "m", lane, flags, window, b"a", "t", BODY, timeout_ms / 1000)
        pending = Pending(
            call,
            self._now + call.timeout_s,
            lambda outcome, frames: self._done(number, outcome, frames),
            (lambda frames: self._told.append([number, "piece", *hexes(frames)])) if window else None,
        )
        self.pendings[number] = pending
        given = {"op": op, "lane": lane, "timeout_ms": timeout_ms, "flags": flags, "window": window}
        self._step("start", lambda: self.session.start(self._now, pending), call=number, **given)
        return number

    def cancel(self, number: int) -> None:
        """The caller gives up."""
        self.ended.add(number)
        self._step("cancel", lambda: self.session.cancel(self.pendings[number]), call=number)

    def read(self, number: int, times: int = 1) -> None:
        """The reader takes a chunk, or several."""
        for _ in range(times):
            self._step("read", lambda: self.session.read(self._now, self.pendings[number]), call=number)

    def hear(self, message: Any, frames: Sequence[bytes] = ()) -> None:
        """A message comes."""
        written = _message(message, frames)
        self._step("hear", lambda: self.session.message(self._now, message, frames), message=written)

    def tick(self, after_ms: int = 0) -> None:
        """Have the session do what the time demands, a while later."""
        self.now_ms += after_ms
        self._step("tick", lambda: self.session.tick(self._now))

    def close(self) -> None:
        """The client is closed."""
        self._step("close", lambda: self.session.close(closed_error()))

    def advance(self, ms: int) -> None:
        """Let time pass as a shell does: tick when it is due, connect when it is asked for."""
        end = self.now_ms + ms
        while (due := self.due_ms()) <= end:
            self.now_ms = max(self.now_ms, due)
            self.tick()
            if self.session.reconnect:
                self.connected()
        self.now_ms = end

    def due_ms(self) -> int:
        """Return the time of the next tick, on the grid."""
        return math.ceil(self.session.next_tick() * 1000 / GRID_MS) * GRID_MS

    @property
    def _now(self) -> float:
        return self.now_ms / 1000

    def _draw(self) -> float:
        self._drawn.append(self._random())
        return self._drawn[-1]

    def _done(self, number: int, outcome: Any, frames: Sequence[Any]) -> None:
        self.ended.add(number)
        if isinstance(outcome, MeshError):
            error = [outcome.code, outcome.retryable, outcome.retry_after_ms, outcome.details]
            self._told.append([number, "error", *error])
        else:
            self._told.append([number, "final", _message(outcome, frames)])

    def _step(self, what: str, act: Callable[[], None], **given: Any) -> None:
        self._told = []
        act()
        step: dict[str, Any] = {"at": self.now_ms, "do": what, **given}
        self.sent = [message for message, _ in self.session.outbox]
        if self.session.outbox:
            step["sends"] = [_message(message, frames) for message, frames in self.session.outbox]
            self.session.outbox.clear()
        if self._told:
            step["tells"] = self._told
        if changed := self._changes():
            step["state"] = changed
        self._steps.append(step)

    def _changes(self) -> dict[str, Any]:
        session = self.session
        state: dict[str, Any] = {
            "size": len(session),
            "welcomed": session.welcomed,
            "reconnect": session.reconnect,
            "epoch": session.epoch,
            "next": round(session.next_tick() * 1000, 6),
        }
        changed = {key: value for key, value in state.items() if self._state.get(key) != value}
        self._state = state
        moved = {number: pending.moved for number, pending in self.pendings.items()}
        if news := {str(number): count for number, count in moved.items() if self._moved.get(number, 0) != count}:
            changed["moved"] = news
        self._moved = moved
        return changed


def _message(message: Any, frames: Sequence[Any]) -> list[Any]:
    """Write a message: its type, its fields and the frames that follow it."""
    return [type(message).__name__, [js(field) for field in message], *hexes(frames)]


def welcome(epoch: str = "e1", ping_ms: int = 1000, silent_ms: int = 5000, **limits: int) -> messages.Welcome:
    return messages.Welcome(1, 0, epoch, limits, {"ping_ms": ping_ms, "silent_ms": silent_ms})


def final(request_id: int, chunks: int = 0) -> messages.Final:
    return messages.Final(request_id, 1, 2, 3, 0, chunks)


def error(request_id: int, code: str, *, retryable: bool = False, after_ms: int = 0) -> messages.Error:
    return messages.Error(request_id, code, "why", retryable, after_ms)


def tokens(*ids: Any) -> list[bytes]:
    """Return the body of a chunk of text."""
    return [bytes(frame) for frame in pack_body({"text": "", "tokens": list(ids)})]
