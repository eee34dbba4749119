"""A peer made by hand: a DEALER that says what no real client or worker would."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import zmq

from mlx_mesh_wire import decode_header, encode_header, messages, pack_body, unpack_body
from mlx_mesh_wire.bundle import opened
from tests.live import PATIENCE_S, LiveMesh, until

M = TypeVar("M")


class Dealer:
    """One connection to a socket of the broker; remembers what came and was not asked for yet."""

    def __init__(self, endpoint: str, *, hwm: int = 1000) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, hwm)
        self.socket.connect(endpoint)
        self.session = os.urandom(16)
        self.seen: list[tuple[Any, list[bytes]]] = []
        self._ids = itertools.count(1)

    def close(self) -> None:
        self._context.destroy(0)

    def raw(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def say(self, message: Any, *frames: Any) -> None:
        self.raw(encode_header(message), *frames)

    def hello(self, last_epoch: str = "") -> messages.Welcome:
        self.say(messages.Hello(1, 0, self.session, "by hand", last_epoch))
        return self.take(messages.Welcome)[0]

    def ready(self, *, ops: Sequence[str], name: str = "by-hand", slots: int = 1, pid: int = 1, **given: Any) -> None:
        """Register as a worker; on no machine, so that only its silence can tell of its death."""
        fields = {"pure_ops": [], "models": [], "load_max_ms": 0, "machine": "nowhere", "pid_start": 0, **given}
        self.say(
            messages.Ready(
                1, 0, self.session, name, "host", fields["machine"], pid, fields["pid_start"], list(ops),
                fields["pure_ops"], fields["models"], slots, fields["load_max_ms"], {},
            )
        )  # fmt: skip
        self.take(messages.Welcome)

    def request(self, op: str = "echo", value: Any = "x", *, ms: int = 30_000, flags: int = 0, window: int = 0) -> int:
        request_id = next(self._ids)
        self.say(messages.Request(request_id, op, "", 1, ms, flags, window, b"", ""), *pack_body(value))
        return request_id

    def pump(self, wait_ms: int = 0) -> None:
        """Take in what has come."""
        while self.socket.poll(wait_ms):
            header, *frames = self.socket.recv_multipart()
            message = decode_header(header)
            wait_ms = 0
            if isinstance(message, messages.Bundle):
                self.seen += [(decode_header(header), body) for header, *body in opened(message, frames)]
            else:
                self.seen.append((message, frames))

    def take(self, kind: type[M], seconds: float = PATIENCE_S, *, of: int | None = None) -> tuple[M, list[bytes]]:
        """Return the first message of this kind, and of this id if one is given."""

        def find() -> tuple[M, list[bytes]] | None:
            for index, (message, _) in enumerate(self.seen):
                if isinstance(message, kind) and of in (None, getattr(message, "id", None)):
                    return self.seen.pop(index)
            return None

        def look() -> tuple[M, list[bytes]] | None:
            return find() or self.pump(20) or find()

        found: tuple[M, list[bytes]] = until(look, f"a {kind.__name__} {of or ''}", seconds)
        return found

    def answer(self, request_id: int) -> Any:
        """Return the value of the FINAL of a request."""
        return unpack_body(self.take(messages.Final, of=request_id)[1])

    def error(self, of: int = 0) -> messages.Error:
        return self.take(messages.Error, of=of)[0]

    def leave(self) -> None:
        """Say BYE and wait until that is heard: what is said right before :meth:`close` may be dropped."""
        self.say(messages.Bye(""))
        self.say(messages.Ping(1))  # of a stranger by now
        self.take(messages.Reset)

    def settle(self) -> list[Any]:
        """Return all that came before the answer to a PING, and forget it: what has not come by then will not.

        The broker's own PINGs are left out: who has work under way and is silent for a second gets one.
        """
        self.say(messages.Ping(2**40))
        before = []
        while (message := self.take(object)[0]) != messages.Pong(2**40):
            if not isinstance(message, messages.Ping):
                before.append(message)
        return before


@contextmanager
def dealer(mesh: LiveMesh, socket: str = "frontend", *, hwm: int = 1000) -> Iterator[Dealer]:
    made = Dealer(f"ipc://{mesh.dir}/{socket}.sock", hwm=hwm)
    try:
        yield made
    finally:
        made.close()
