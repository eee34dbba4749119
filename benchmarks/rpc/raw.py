"""A bare DEALER as client, the least that a request can cost its sender."""

from __future__ import annotations

import os
from typing import Self

import zmq

from benchmarks.rpc.clients import PAYLOAD
from mlx_mesh_wire import decode_header, encode_header, limits, messages, pack_body
from mlx_mesh_wire.bundle import opened
from mlx_mesh_wire.transport import receiver, sender

TIMEOUT_MS = 30_000
HEADER = bytes(24)
"""As long as the header of a request to the mesh, so that both send equally much."""


class RawClient:
    """Sends the payload and takes answers, in any order."""

    def __init__(self, address: str, *, speaks_mesh: bool) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._send = sender(self._socket)
        self._take = receiver(self._socket)
        self._mesh = speaks_mesh
        self._body = pack_body(PAYLOAD)
        self._number = 0
        self._opened: list[list[bytes]] = []
        if speaks_mesh:
            session = os.urandom(limits.SESSION_BYTES)
            hello = messages.Hello(limits.PROTOCOL_MAJOR, limits.PROTOCOL_MINOR, session, "benchmark", "")
            self._send([encode_header(hello)])
            self._expect(messages.Welcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self) -> None:
        """Send one request."""
        if not self._mesh:
            self._send([HEADER, PAYLOAD])
            return
        self._number += 1
        request = messages.Request(self._number, "echo", "", 1, 60_000, 0, 0, b"", "")
        self._send([encode_header(request), *self._body])

    def receive(self) -> None:
        """Wait for one answer."""
        if self._mesh:
            self._expect(messages.Final)
        else:
            assert len(self._next()[1]) == len(PAYLOAD)

    def _expect(self, kind: type) -> None:
        if not self._opened:
            frames = self._next()
            message = decode_header(frames[0])
            self._opened = opened(message, frames[1:]) if isinstance(message, messages.Bundle) else [frames]
            self._opened.reverse()
        message = decode_header(self._opened.pop()[0])
        assert isinstance(message, kind), message

    def _next(self) -> list[bytes]:
        while (frames := self._take()) is None:
            if not self._socket.poll(TIMEOUT_MS):
                raise TimeoutError("no answer came")
        return frames
