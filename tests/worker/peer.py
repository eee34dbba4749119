"""A bare ROUTER that a worker takes for its broker."""

from __future__ import annotations

from typing import Any

import zmq

from mlx_mesh_wire import decode_header, encode_header, limits, messages, pack_body, unpack_body
from mlx_mesh_wire.bundle import opened
from tests.live import PATIENCE_S, LiveMesh, until

WELCOME = messages.Welcome(limits.PROTOCOL_MAJOR, limits.PROTOCOL_MINOR, "e1", {}, {"silent_ms": 600_000})
"""A test says nothing for as long as it likes; the worker is not to look for another broker meanwhile."""

GREETINGS = (messages.Ready, messages.Loading)


class Peer:
    """The broker's end of a worker's connection."""

    def __init__(self, mesh: LiveMesh) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind(f"ipc://{mesh.dir}/backend.sock")
        self.route = b""
        self.seen: list[tuple[Any, list[bytes]]] = []
        self.welcomed = False

    def take(self, kind: type, seconds: float = PATIENCE_S) -> tuple[Any, list[bytes]]:
        """Return the next message of this kind, remembering the others."""

        def look() -> Any:
            while self.socket.poll(10):
                route, header, *frames = self.socket.recv_multipart()
                self.route = route
                message = decode_header(header)
                parts = opened(message, frames) if isinstance(message, messages.Bundle) else [[header, *frames]]
                self.seen += [(decode_header(each[0]), each[1:]) for each in parts]
                if not self.welcomed and any(type(entry[0]) in GREETINGS for entry in self.seen):
                    self.welcomed = True
                    self.send(WELCOME)
            found = next((entry for entry in self.seen if type(entry[0]) is kind), None)
            if found:
                self.seen.remove(found)
            return found

        return until(look, kind.__name__, seconds)

    def send(self, message: Any, value: Any = None) -> None:
        frames = pack_body(value) if type(message) is messages.Job else []
        self.socket.send_multipart([self.route, encode_header(message), *frames])

    def job(self, job_id: int, value: Any, *, request: int = 0, ms: int = 30_000, window: int = 0) -> None:
        request = request or job_id
        self.send(messages.Job(job_id, 1, b"s" * 16, request, "op", "", 1, ms, 0, window, b"", ""), value)

    def settle(self) -> None:
        """Return once the worker has heard all that was sent."""
        self.send(messages.Ping(7))
        self.take(messages.Pong)

    def answer(self) -> Any:
        message, frames = self.take(messages.Final)
        return message.id, unpack_body(frames)
