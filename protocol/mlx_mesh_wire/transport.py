"""Connecting, and whole messages in and out of a ZeroMQ socket, at the lowest cost per frame that pyzmq allows.

``recv_multipart`` and ``send_multipart`` add several Python calls to every frame; the methods of the compiled
base class, bound once, take about half the time. This is the one place that uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq
from zmq.backend import Socket as _CompiledSocket

from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import DecodeError
from mlx_mesh_wire.wrapping import unwrap, wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_wire.keys import PrivateKeys

_DONTWAIT = int(zmq.DONTWAIT)
_SNDMORE = int(zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

LINGER_MS = 500
"""How long what was sent last is waited for when a peer leaves."""

RECONNECT_MS = 50
"""The first pause before a broken connection is made anew; it doubles with each attempt."""

KEY_BYTES = 40
"""A key as text, in Z85; the User-Id of every peer that was let in by its key."""

LIBZMQ_MIN = (4, 3, 5)
"""The release whose refusals the tests hold; those before 4.3.3 could be crashed before any handshake."""

DISCARD_FRAMES = 256
"""Frames of a message over its limits that are thrown away before others get their turn. ZeroMQ bounds the number of
frames of a message nowhere, and 200,000 of them take a fifth of a second.
"""

Frame = bytes | memoryview


class LibraryError(RuntimeError):
    """The installed libzmq cannot be used; the message names it."""


def check_library(*, curve: bool = False) -> None:
    """Refuse a libzmq that is too old or, with ``curve``, has no encryption.

    Raises:
        LibraryError: saying what is there and what is needed.
    """
    found = zmq.zmq_version_info()
    if found < LIBZMQ_MIN:
        versions = (".".join(map(str, each)) for each in (found, LIBZMQ_MIN))
        raise LibraryError("libzmq is {}, needed is {} or later; run: pip install -U pyzmq".format(*versions))
    if curve and not zmq.has("curve"):
        raise LibraryError("libzmq was built without CURVE, which keys need; run: pip install --force-reinstall pyzmq")


def new_pair() -> tuple[str, str]:
    """Return a new public key and its secret one."""
    check_library(curve=True)
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, reconnect_max_ms: int, keys: PrivateKeys | None = None
) -> zmq.Socket[bytes]:
    """Return a DEALER for a broker; clients and workers are to differ in no more. It is not connected yet.

    Who wants to know why no connection is made watches it before: a refusal may come within a millisecond, and is told
    once.
    """
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, LINGER_MS)
    # The broker bounds what it gives a peer; a full pipe would only hide that its messages wait.
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.MAXMSGSIZE, limits.MESSAGE_MAX_BYTES if keys is None else limits.WRAPPED_MAX_BYTES)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, reconnect_max_ms)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.IPV6, "[" in endpoint)
    if keys is not None:
        socket.set(zmq.CURVE_SERVERKEY, keys.server.encode())
        socket.set(zmq.CURVE_PUBLICKEY, keys.public.encode())
        socket.set(zmq.CURVE_SECRETKEY, keys.secret.encode())
    return socket


class RefusedMessage(Exception):  # noqa: N818  an event to handle, not a failure of the caller
    """A message cannot be taken; its frames were thrown away.

    Attributes:
        first: the first frame, which on a ROUTER is the sender's routing id.
        header: the header frame; empty if it was not read.
        reason: what is wrong with it.
        code: TOO_LARGE if it was over its limits, else PROTOCOL_ERROR.
    """

    def __init__(self, first: bytes, header: bytes, reason: str, code: str = "TOO_LARGE") -> None:
        super().__init__(reason)
        self.first = first
        self.header = header
        self.reason = reason
        self.code = code


def receiver(
    socket: zmq.Socket[bytes],
    *,
    frames_max: int = limits.FRAMES_MAX,
    message_max_bytes: int = limits.MESSAGE_MAX_BYTES,
    routed: bool = False,
    named: bool = False,
) -> Callable[[], list[bytes] | None]:
    """Return a function that reads one message without blocking; None when there is none.

    ``ZMQ_MAXMSGSIZE`` bounds a frame, so frames and bytes are counted again here. With ``routed`` (a ROUTER
    socket) one more frame is allowed, for the routing id. With ``named`` (one on which peers have keys) the User-Id,
    of KEY_BYTES, stands before the routing id; zeros if there is none.

    Raises:
        RefusedMessage: by the returned function; again, with an empty header, for each DISCARD_FRAMES frames of one
            that is over its limits.
    """
    recv: Callable[[int], bytes] = _CompiledSocket.recv.__get__(socket)
    get: Callable[[int], int] = _CompiledSocket.get.__get__(socket)
    most = frames_max + (1 if routed else 0)
    rest: tuple[bytes, str] | None = None

    def receive() -> list[bytes] | None:
        # Asking first is cheaper than the exception that an empty receive raises.
        if not get(_EVENTS) & _POLLIN:
            return None
        if rest is not None:
            raise _refusal(rest[0], b"", rest[1])
        frames = [recv(_DONTWAIT) if not named else _named_first(socket)]
        while get(_RCVMORE):
            frames.append(recv(_DONTWAIT))
            if len(frames) > 2 and sum(map(len, frames)) > message_max_bytes:  # noqa: PLR2004
                raise _refusal(frames[0], frames[most - frames_max], f"message has over {message_max_bytes} bytes")
            if len(frames) > most:
                raise _refusal(frames[0], frames[most - frames_max], f"message has over {frames_max} frames")
        return frames

    def _refusal(first: bytes, header: bytes, reason: str) -> RefusedMessage:
        """Throw away what is left of a message, or a part of that: the rest is there at the next call.

        The exception is kept nowhere: with its traceback it would keep itself, and what was read, alive.
        """
        nonlocal rest
        rest = None if _thrown_away(socket) else (first, reason)
        return RefusedMessage(first, header, reason)

    return receive


def unwrapping(socket: zmq.Socket[bytes], *, routed: bool = False) -> Callable[[], list[bytes] | None]:
    """Return what :func:`receiver` does, for a socket on which peers have keys and a message is one frame.

    Raises:
        RefusedMessage: by the returned function; the header is empty unless the message is whole and too large.
    """
    receive = receiver(socket, frames_max=1, routed=routed, named=routed)

    def receive_wrapped() -> list[bytes] | None:
        try:
            frames = receive()
        except RefusedMessage as refused:
            text = "on a connection with keys a message is one frame"
            raise RefusedMessage(refused.first, b"", text, "PROTOCOL_ERROR") from None
        if frames is None:
            return None
        whole = frames.pop()
        first = frames[0] if frames else b""
        try:
            inside = unwrap(whole)
        except DecodeError as error:
            raise RefusedMessage(first, b"", error.message, "PROTOCOL_ERROR") from None
        if sum(map(len, inside)) > limits.MESSAGE_MAX_BYTES:
            raise RefusedMessage(first, inside[0], f"message has over {limits.MESSAGE_MAX_BYTES} bytes")
        return frames + inside

    return receive_wrapped


def _thrown_away(socket: zmq.Socket[bytes]) -> bool:
    """Throw frames of a message away without copying them; return whether these were the last."""
    if not socket.get(zmq.RCVMORE):
        return True
    return not all(socket.recv(_DONTWAIT, copy=False).more for _ in range(DISCARD_FRAMES))


def _named_first(socket: zmq.Socket[bytes]) -> bytes:
    frame = socket.recv(_DONTWAIT, copy=False)
    try:
        user = str(frame.get("User-Id")).encode()
    except zmq.ZMQError:  # No handler has said whose it is.
        user = b""
    return user.rjust(KEY_BYTES, b"\0")[:KEY_BYTES] + frame.bytes


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


def wrapping(socket: zmq.Socket[bytes], *, routed: bool = False) -> Callable[[Sequence[Frame]], None]:
    """Return what :func:`sender` does, for a socket on which peers have keys and a message is one frame.

    With ``routed`` (a ROUTER socket) the first frame, the routing id, stays one of its own.
    """
    send = sender(socket)
    if routed:
        return lambda frames: send((frames[0], wrap(frames[1:])))
    return lambda frames: send((wrap(frames),))


def dealer_ends(
    socket: zmq.Socket[bytes], keys: PrivateKeys | None
) -> tuple[Callable[[], list[bytes] | None], Callable[[Sequence[Frame]], None]]:
    """Return what receives from a DEALER and what sends by it, as its broker speaks: wrapped where there are keys."""
    if keys is None:
        return receiver(socket), sender(socket)
    return unwrapping(socket), wrapping(socket)
