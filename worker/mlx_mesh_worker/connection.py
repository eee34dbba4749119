"""The way to the broker: messages in and out, over one socket after the other."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import zmq

from mlx_mesh_wire.bundle import Mail, bundles, deliver
from mlx_mesh_wire.endpoints import IPC
from mlx_mesh_wire.handshake import HandshakeWatch
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.transport import LINGER_MS, RefusedMessage, dealer, dealer_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_wire import DecodeError
    from mlx_mesh_wire.keys import PrivateKeys
    from mlx_mesh_wire.messages import Message

    Hear = Callable[[float, Message, Sequence[bytes]], None]

BATCH = 64
"""Messages taken in before outcomes are sent."""

REFUSED_S = 2.0
"""Pause before a broker that refused the key is tried again."""

RECONNECT_MAX_MS = 500
"""A broker on the same machine is back within a second; waiting longer only delays its first jobs."""


class Connection:
    """Connects to a broker, whenever that comes.

    Args:
        endpoint: of its workers.
        keys: with which; None for an endpoint without keys.

    Attributes:
        socket: the one of now. :meth:`renew` puts another in its place.
    """

    def __init__(self, endpoint: str, keys: PrivateKeys | None) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._handshakes: HandshakeWatch | None = None
        self._retry_at = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connect()

    def drain(self, now: float, hear: Hear) -> int:
        """Hand a batch of messages over; return how many there were."""
        taken = 0
        while taken < BATCH:
            try:
                frames = self._receive()
                if frames is None:
                    break
            except RefusedMessage as error:
                log("warning", "bad_message", reason=str(error))
                continue
            taken += deliver(now, frames, hear, _refuse)
        return taken

    def send(self, mail: Sequence[Mail]) -> None:
        """Send messages, small ones together."""
        # Nothing bounds what waits to be sent: if libzmq takes no more, it has given the connection up, and all that
        # matters is said again on the next.
        with suppress(zmq.Again):
            for _, frames in bundles(mail):
                self._send(frames)

    def renew(self) -> None:
        """Throw the connection away and make another."""
        self._disconnect(0)
        self._connect()

    def mind(self, now: float) -> bool:
        """Say why there is no connection, and go on trying; True if another was made.

        Keys may be put right while the worker stays warm.
        """
        watch = self._handshakes
        if watch is None:
            return False
        dead = watch.dead
        fault = watch.fault(now)
        if fault:
            log("error", "key_refused", reason=fault)
        if watch.dead and not dead:
            self._retry_at = now + REFUSED_S
        elif watch.dead and now >= self._retry_at:
            self.renew()
            return True
        return False

    def close(self) -> None:
        """Leave, once the last messages are taken, or the linger is over."""
        self._disconnect(LINGER_MS)
        self._context.term()

    def _connect(self) -> None:
        self.socket = dealer(self._context, self._endpoint, RECONNECT_MAX_MS, self._keys)
        if not self._endpoint.startswith(IPC):
            self._handshakes = HandshakeWatch(self.socket, self._endpoint, self._keys)
        self.socket.connect(self._endpoint)
        self._receive, self._send = dealer_ends(self.socket, self._keys)

    def _disconnect(self, linger_ms: int) -> None:
        if self._handshakes is not None:
            self._handshakes.close()
            self._handshakes = None
        self.socket.close(linger_ms)


def _refuse(_: float, error: DecodeError, _header: bytes) -> None:
    log("warning", "bad_message", reason=str(error))
