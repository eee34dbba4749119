"""Why a connection to a TCP endpoint is not made."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from mlx_mesh_wire.keys import PrivateKeys

HANDSHAKES_FAIL_S = 2.0
"""How long connections may end in the middle of their handshakes before that is told. One that was made for another
broker's key ends like this, but so does one to a broker that is just being started.
"""

HANDSHAKES_FAIL_MIN = 5
"""How many have to end like this by then. Of one that the network broke at once, and one late, there are two; a broker
that is held up ends one in 2 s. One with other keys ends six in that time, however the pauses between them grow.
"""

_DONTWAIT = int(zmq.DONTWAIT)
_EVENT = Struct("=HI")
"""Number and value of an event, as zmq_socket_monitor(3) has them. pyzmq's own reader would import asyncio."""


class HandshakeWatch:
    """Learns why a TCP connection is not made, of which libzmq tells the user of a socket nothing by itself.

    Args:
        socket: that is going to connect; of what happened before, nothing is known.
        endpoint: to which.
        keys: with which.
        known: a broker has answered there. A connection that is not made then is a fault of the network, or a broker
            that is away behind a proxy which is not, and no mistake of whoever set them up; only a refusal is told.

    Attributes:
        dead: libzmq has given the connection up; only a new socket tries again.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], endpoint: str, keys: PrivateKeys | None, *, known: bool = False
    ) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._keys = keys
        self._failed, self._failing_since = 0, 0.0
        self._succeeded = known
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self.dead = False

    def fault(self, now: float) -> str:
        """Return why no connection can be made, for people; empty as long as one may be."""
        told = ""
        while self._monitor.poll(0):
            kind, _ = _EVENT.unpack(self._monitor.recv_multipart(_DONTWAIT)[0])
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._succeeded, told = True, ""
            else:
                told = self._take(now, kind) or told
        return told

    def close(self) -> None:
        """Stop watching; to be called before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close(0)

    def _take(self, now: float, kind: int) -> str:
        """Take the event of a handshake that failed; return what it makes certain, for people."""
        self.dead |= kind != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return self._refused()
        if self._succeeded:
            return ""  # A broker that comes back; it may stand behind a proxy that is there already.
        if kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            return self._mismatch("it speaks otherwise than this program")
        return self._broken(now)

    def _broken(self, now: float) -> str:
        """Count a connection that ended in the middle of its handshake; tell of the latest of too many."""
        if not self._failed:
            self._failing_since = now
        self._failed += 1
        if self._failed < HANDSHAKES_FAIL_MIN or now - self._failing_since < HANDSHAKES_FAIL_S:
            return ""
        self._failed = 0
        return self._mismatch("connections to it end before they are made, again and again")

    def _refused(self) -> str:
        keys = self._keys
        whose = f"the key of {keys.role} {keys.name!r}" if keys is not None else "a peer without a key"
        return (
            f"the broker at {self._endpoint} refuses {whose}: it was revoked, or is not for this endpoint; "
            "see `mlx-mesh keys list` where the broker runs, and its log"
        )

    def _mismatch(self, what: str) -> str:
        if self._keys is None:
            why = "it may serve only peers with keys; give some by MLX_MESH_KEYS, or --keys of a worker"
        else:
            why = "it may be an endpoint without keys, or of a broker that these keys were not made for"
        return f"no connection to {self._endpoint}: {what}; {why}"
