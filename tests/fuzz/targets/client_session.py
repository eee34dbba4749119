"""Whatever a broker sends to a client, each of its calls ends exactly once, with a result or a MeshError, by its
deadline; and the client asks for its turn no more often than it has something to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mlx_mesh._options import Call
from mlx_mesh._pending import Pending
from mlx_mesh._session import STATUS_OP, Session, result_of
from mlx_mesh_wire import CancelledError, DecodeError, Flag, MeshError, encode_header, messages
from tests.fuzz import scripts
from tests.fuzz.tape import Tape

STEPS_MAX = 128
TIMEOUTS_S = (60.0, 1.0, 0.1, 600.0)
PAUSES_S = (0.0, 0.05, 1.1, 3.0, 6.0, 31.0)
TICKS_MAX = 60
"""Turns in one pause: a broker may ask for many pings a second."""

MOMENT_S = 1e-6
"""A clock goes on between two turns."""

IDLE_MAX = 8
"""Turns without time going on: more, and a client would keep a core busy with nothing."""

FLAGS = (0, Flag.RESUMABLE, Flag.AT_MOST_ONCE, Flag.WAIT_FOR_READY)


class Life:
    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._now = 10.0
        self._session = Session(b"k" * 16, "c", "endpoint", lambda: 0.5)
        self._calls: list[tuple[Pending, list[Any]]] = []
        self._session.connected(self._now)
        self._steps = (*(self._hear,) * 8, self._hear_any, *(self._call,) * 3, self._cancel, self._read, self._wait)
        self.fed = 0
        for _ in range(3):
            self._call()

    def live(self) -> None:
        for _ in range(STEPS_MAX):
            if not self._tape.left:
                break
            self._tape.pick(self._steps)()
            self._send()
        self._session.close(CancelledError("closed"))
        self._send()
        for pending, outcomes in self._calls:
            assert pending.ended
            assert len(outcomes) <= 1, "a call has one answer"

    def _hear(self, types: Sequence[type[Any]] = scripts.BROKER_SAYS_CLIENT) -> None:
        message = scripts.message(self._tape, types)
        self._session.message(self._now, message, scripts.body(self._tape))
        self.fed += 1

    def _hear_any(self) -> None:
        self._hear(scripts.ANYTHING)

    def _call(self) -> None:
        tape = self._tape
        outcomes: list[Any] = []

        def done(outcome: messages.Final | MeshError, frames: Sequence[bytes]) -> None:
            outcomes.append(outcome)
            if isinstance(outcome, MeshError):
                assert str(outcome).startswith(outcome.code)
                return
            _decoded(frames)

        window = tape.pick((0, 4, 1024, 1))
        op = tape.pick(("echo", "generate", STATUS_OP))
        call = Call(
            op, "", tape.byte() % 3, tape.pick(FLAGS), window, b"", "", scripts.BODIES[0], tape.pick(TIMEOUTS_S)
        )
        pending = Pending(call, self._now + call.timeout_s, done, _decoded if window else None)
        self._calls.append((pending, outcomes))
        self._session.start(self._now, pending)

    def _cancel(self) -> None:
        pending, outcomes = self._tape.pick(self._calls[:256])
        before = len(outcomes)
        self._session.cancel(pending)
        assert len(outcomes) == before

    def _read(self) -> None:
        pending, _ = self._tape.pick(self._calls[:256])
        self._session.read(self._now, pending)

    def _wait(self) -> None:
        until = self._now + self._tape.pick(PAUSES_S)
        idle = 0
        for _ in range(TICKS_MAX):
            due = self._session.next_tick()
            if due > until:
                break
            idle = idle + 1 if due <= self._now else 0
            assert idle < IDLE_MAX, "the client wants its turn without end"
            self._tick(max(self._now + MOMENT_S, due))
        self._tick(until)
        for pending, outcomes in self._calls:
            assert outcomes or pending.ended or pending.due > self._now, "a call ends by its deadline"

    def _tick(self, now: float) -> None:
        self._now = now
        self._session.tick(now)
        self._send()
        if self._session.reconnect:
            self._session.connected(now)

    def _send(self) -> None:
        while self._session.outbox:
            encode_header(self._session.outbox.popleft()[0])


def _decoded(frames: Sequence[bytes]) -> None:
    try:
        result_of(frames)
    except DecodeError:
        return


def one(data: bytes) -> int:
    life = Life(Tape(data))
    life.live()
    return life.fed


def seeds() -> Iterator[bytes]:
    for number in range(len(scripts.BROKER_SAYS_CLIENT)):
        yield bytes([1, 1, 1, 1, 0] * 3) + bytes([0, number, 0, 0, 0, 0, 0, 0, 4, 12, 0, 14, 2]) * 5
