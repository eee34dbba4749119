"""A session on a real socket, for both kinds of client. It neither blocks nor starts anything."""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from pathlib import Path

import zmq

from mlx_mesh._session import Session, closed_error
from mlx_mesh_wire import DecodeError, InternalError, InvalidRequestError, decode_header, limits
from mlx_mesh_wire.bundle import bundles, opened
from mlx_mesh_wire.endpoints import endpoint_fault
from mlx_mesh_wire.messages import Bundle
from mlx_mesh_wire.paths import client_endpoint
from mlx_mesh_wire.transport import LINGER_MS, OversizedMessage, dealer, receiver, sender

RECONNECT_MAX_MS = 1000
BATCH = 256
"""Messages taken in one go, so that a flood of chunks cannot keep an event loop from its other work."""


_process = object()
"""This process, told from one forked off it: asking the kernel for the pid would cost each call a system call."""


def _forked() -> None:
    global _process  # noqa: PLW0603  it stands for the process as a whole
    _process = object()


os.register_at_fork(after_in_child=_forked)


class Link:
    """One DEALER and the session that speaks on it. Not safe to share between threads by itself.

    Attributes:
        fd: the socket's descriptor: readable when something may have happened; edge-triggered, so pump until quiet.
        behind: the last ``pump`` took a whole batch and left the rest.
    """

    def __init__(self, endpoint: str | None) -> None:
        self.endpoint = check_endpoint(endpoint or client_endpoint())
        self._process = _process
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # The name of a script may hold bytes that are not UTF-8.
        program = Path(sys.argv[0] or "python").name[:40].encode("utf-8", "replace").decode()
        name = f"{program}:{os.getpid()}"
        self.session = Session(secrets.token_bytes(limits.SESSION_BYTES), name, self.endpoint, random.random)
        self.closed = False
        self.behind = False
        self._connect()

    def check_usable(self) -> None:
        """Raise unless calls can be made.

        Raises:
            CancelledError: the client was closed.
            InternalError: the process was forked after the client was made.
        """
        if self.closed:
            raise closed_error()
        if self._process is not _process:
            raise InternalError("this client was made before a fork; make a new one in the child process")

    def pump(self) -> bool:
        """Send what is to be sent and take in what came, until both are done; True if the socket is a new one.

        A send may use up the edge that would have announced a message, so receiving comes last. After a batch it
        returns with ``behind`` set: nothing will announce what still waits, so it has to be called again soon.
        """
        now = time.monotonic()
        session = self.session
        renewed = session.reconnect
        if renewed:
            self._socket.close(0)
            self._connect()
        self.behind = False
        for _ in range(BATCH):
            self.flush()
            try:
                frames = self._receive()
                if frames is None:
                    if not session.outbox:
                        return renewed
                    continue
            except OversizedMessage:
                continue  # It is not an answer to anything that was asked; the deadline covers the call.
            self._take(now, frames)
        self.behind = True
        return renewed

    def leave(self) -> None:
        """End every call and say goodbye, without waiting for anything."""
        if self.closed:
            return
        self.closed = True
        if self._process is not _process:
            return
        self.session.close(closed_error())
        self.flush()
        self._socket.close(LINGER_MS)

    def close(self) -> None:
        """Leave, and wait until the goodbye is taken, at most as long as the linger."""
        self.leave()
        if self._process is _process:
            self._context.term()

    def _take(self, now: float, frames: list[bytes]) -> None:
        try:
            message = decode_header(frames[0])
            inside = opened(message, frames[1:]) if type(message) is Bundle else ()
        except DecodeError:
            return  # As above.
        for each in inside:
            self._take(now, each)
        if message is not None:
            self.session.message(now, message, frames[1:])

    def flush(self) -> None:
        """Send what is to be sent."""
        outbox = self.session.outbox
        if outbox:
            for _, frames in bundles(outbox):
                self._send(frames)
            outbox.clear()

    def _connect(self) -> None:
        socket = dealer(self._context, self.endpoint, RECONNECT_MAX_MS)
        self._socket = socket
        self.fd = socket.fileno()
        self._receive = receiver(socket)
        self._send = sender(socket)
        self.session.connected(time.monotonic())


def check_endpoint(endpoint: str) -> str:
    """Return the endpoint if a client can connect to it.

    Raises:
        InvalidRequestError: saying what is allowed.
    """
    fault = endpoint_fault(endpoint)
    if fault:
        raise InvalidRequestError(f"endpoint {fault}", details={"field": "endpoint"})
    return endpoint
