"""A session on a real socket, for both kinds of client. It neither blocks nor starts anything."""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from mlx_mesh._session import Session, closed_error
from mlx_mesh_wire import InternalError, InvalidRequestError, UnauthorizedError, limits
from mlx_mesh_wire.bundle import bundles, deliver
from mlx_mesh_wire.endpoints import IPC, endpoint_fault
from mlx_mesh_wire.handshake import HandshakeWatch
from mlx_mesh_wire.key_files import KeysError
from mlx_mesh_wire.keys import KEYS_VARIABLE, keys_of
from mlx_mesh_wire.paths import client_endpoint
from mlx_mesh_wire.transport import (
    LINGER_MS,
    LibraryError,
    RefusedMessage,
    check_library,
    dealer,
    dealer_ends,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.keys import PrivateKeys

RECONNECT_MAX_MS = 1000
LOOK_S = 0.1
"""How often it is looked whether a connection that once was made is refused now."""

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

    def __init__(self, endpoint: str | None, keys: str | os.PathLike[str] | None = None) -> None:
        self.endpoint = check_endpoint(endpoint or client_endpoint())
        self._keys = client_keys(self.endpoint, keys)
        self._process = _process
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # The name of a script may hold bytes that are not UTF-8.
        program = Path(sys.argv[0] or "python").name[:40].encode("utf-8", "replace").decode()
        name = f"{program}:{os.getpid()}"
        self.session = Session(secrets.token_bytes(limits.SESSION_BYTES), name, self.endpoint, random.random)
        self.closed = False
        self.behind = False
        self._watch: HandshakeWatch | None = None
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
        if self._watch is not None and now >= self._look_due:
            self._look(now, self._watch)
        renewed = session.reconnect
        if renewed:
            self._disconnect(0)
            self._connect()
        self.behind = False
        for _ in range(BATCH):
            self.flush()
            try:
                frames = self._receive()
                if frames is None:
                    if self._cut and self._watch is not None:
                        self._look(now, self._watch)
                    if not session.outbox:
                        return renewed
                    continue
            except RefusedMessage as refused:
                # What was damaged on its way is sent again on another connection; what is too large would be, too.
                session.reconnect = session.reconnect or refused.code == "PROTOCOL_ERROR"
                continue
            deliver(now, frames, session.message, _ignore)
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
        self._disconnect(LINGER_MS)

    def close(self) -> None:
        """Leave, and wait until the goodbye is taken, at most as long as the linger."""
        self.leave()
        if self._process is _process:
            self._context.term()

    def flush(self) -> None:
        """Send what is to be sent."""
        outbox = self.session.outbox
        if outbox:
            try:
                for _, frames in bundles(outbox):
                    self._send(frames)
            except zmq.Again:
                # There is no bound to what waits to be sent: libzmq has given the connection up, and told the watch.
                self._cut = True
            outbox.clear()

    def _look(self, now: float, watch: HandshakeWatch) -> None:
        """End all calls if no connection can be made; a call after that tries once more."""
        self._look_due = now + LOOK_S if self.session.welcomed else now
        self._cut = False
        fault = watch.fault(now)
        if fault:
            self.session.end_all(UnauthorizedError(fault))
        if watch.dead and len(self.session):
            self.session.outbox.clear()  # It says HELLO anew, and all that is outstanding.
            self.session.reconnect = True

    def _disconnect(self, linger_ms: int) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._socket.close(linger_ms)

    def _connect(self) -> None:
        socket = dealer(self._context, self.endpoint, RECONNECT_MAX_MS, self._keys)
        if not self.endpoint.startswith(IPC):
            known = bool(self.session.epoch)
            self._watch = HandshakeWatch(socket, self.endpoint, self._keys, known=known)
        socket.connect(self.endpoint)
        self._look_due = 0.0
        self._cut = False
        self._socket = socket
        self.fd = socket.fileno()
        self._send: Callable[[Sequence[Frame]], None]
        self._receive, self._send = dealer_ends(socket, self._keys)
        self.session.connected(time.monotonic())


def _ignore(*_: object) -> None:
    """Go on after a message that cannot be read; the deadline covers the call, if it was an answer."""


def client_keys(endpoint: str, given: str | os.PathLike[str] | None) -> PrivateKeys | None:
    """Return the keys to connect with, those in the file ``$MLX_MESH_KEYS`` by default; None if there are none.

    On an ipc endpoint, where the file system says who may connect, there are no keys.

    Raises:
        InvalidRequestError: the file cannot be used, or keys were given for an ipc endpoint.
    """
    if endpoint.startswith(IPC):
        if given is not None:
            text = f"keys are for tcp endpoints; {endpoint} has none, leave them out"
            raise InvalidRequestError(text, details={"field": "keys"})
        return None
    path = given if given is not None else os.environ.get(KEYS_VARIABLE, "")
    if not path:
        return None
    try:
        check_library(curve=True)
        return keys_of("client", path, "keys")
    except LibraryError as error:
        raise InvalidRequestError(f"keys: {error}", details={"field": "keys"}) from error
    except KeysError as error:
        raise InvalidRequestError(str(error), details={"field": "keys"}) from error


def check_endpoint(endpoint: str) -> str:
    """Return the endpoint if a client can connect to it.

    Raises:
        InvalidRequestError: saying what is allowed.
    """
    fault = endpoint_fault(endpoint)
    if fault:
        raise InvalidRequestError(f"endpoint {fault}", details={"field": "endpoint"})
    return endpoint
