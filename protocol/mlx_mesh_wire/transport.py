"""Connecting, and whole messages in and out of a ZeroMQ socket, at the lowest cost per frame that pyzmq allows.

``recv_multipart`` and ``send_multipart`` add several Python calls to every frame; the methods of the compiled
base class, bound once, take about half the time. This is the one place that uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq
from zmq.backend import Socket as _CompiledSocket

from mlx_mesh_wire import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DONTWAIT = int(zmq.DONTWAIT)
_SNDMORE = int(zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

LINGER_MS = 500
"""How long what was sent last is waited for when a peer leaves."""

RECONNECT_MS = 50
"""The first pause before a broken connection is made anew; it doubles with each attempt."""

Frame = bytes | memoryview


def dealer(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, reconnect_max_ms: int) -> zmq.Socket[bytes]:
    """Return a DEALER that connects to a broker, whenever that comes; clients and workers are to differ in no more."""
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, LINGER_MS)
    # The broker bounds what it gives a peer; a full pipe would only hide that its messages wait.
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.MAXMSGSIZE, limits.MESSAGE_MAX_BYTES)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, reconnect_max_ms)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.IPV6, "[" in endpoint)
    socket.connect(endpoint)
    return socket


class OversizedMessage(Exception):  # noqa: N818  an event to handle, not a failure of the caller
    """A message was over its limits; its frames were thrown away.

    Attributes:
        first: the first frame, which on a ROUTER is the sender's routing id.
        header: the header frame.
    """

    def __init__(self, first: bytes, header: bytes, reason: str) -> None:
        super().__init__(reason)
        self.first = first
        self.header = header
        self.reason = reason


def receiver(
    socket: zmq.Socket[bytes],
    *,
    frames_max: int = limits.FRAMES_MAX,
    message_max_bytes: int = limits.MESSAGE_MAX_BYTES,
    routed: bool = False,
) -> Callable[[], list[bytes] | None]:
    """Return a function that reads one message without blocking; None when there is none.

    ``ZMQ_MAXMSGSIZE`` bounds a frame, so frames and bytes are counted again here. With ``routed`` (a ROUTER
    socket) one more frame is allowed, for the routing id.

    Raises:
        OversizedMessage: by the returned function.
    """
    recv: Callable[[int], bytes] = _CompiledSocket.recv.__get__(socket)
    get: Callable[[int], int] = _CompiledSocket.get.__get__(socket)
    most = frames_max + (1 if routed else 0)

    def receive() -> list[bytes] | None:
        # Asking first is cheaper than the exception that an empty receive raises.
        if not get(_EVENTS) & _POLLIN:
            return None
        frames = [recv(_DONTWAIT)]
        while get(_RCVMORE):
            frames.append(recv(_DONTWAIT))
            if len(frames) > most:
                _discard()
                raise OversizedMessage(frames[0], frames[most - frames_max], f"message has over {frames_max} frames")
        if len(frames) > 2 and sum(map(len, frames)) > message_max_bytes:  # noqa: PLR2004
            raise OversizedMessage(frames[0], frames[most - frames_max], f"message has over {message_max_bytes} bytes")
        return frames

    def _discard() -> None:
        while get(_RCVMORE):
            recv(_DONTWAIT)

    return receive


def sender(socket: zmq.Socket[bytes]) -> Callable[[Sequence[Frame]], None]:
    """Return a function that sends one message without blocking.

    Raises:
        zmq.Again: by the returned function, when the peer's pipe is full; nothing was sent.
        zmq.ZMQError: EHOSTUNREACH on a ROUTER with ROUTER_MANDATORY whose peer is gone; nothing was sent.
    """
    send: Callable[[Frame, int], None] = _CompiledSocket.send.__get__(socket)
    more = _SNDMORE | _DONTWAIT

    def send_message(frames: Sequence[Frame]) -> None:
        last = len(frames) - 1
        for frame in frames[:last]:
            send(frame, more)
        send(frames[last], _DONTWAIT)

    return send_message
