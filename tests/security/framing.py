"""Somebody between two sockets of libzmq who knows ZMTP's frames, has no key, and passes on what they like."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import zmq

from mlx_mesh_wire.transport import RefusedMessage, unwrapping, wrapping
from tests.security.raw_peer import GREETING_BYTES

MORE, LONG, COMMAND = 0x01, 0x02, 0x04
"""Bits of the byte that begins each frame (RFC 23)."""

HANDSHAKE_FRAMES = 2
"""Of a client with CURVE: HELLO, INITIATE."""

PATIENCE_MS = 30_000


class Frame(NamedTuple):
    """One frame as it is on the wire: its content is sealed, its flags and its size are not."""

    flags: int
    body: bytes

    def wire(self) -> bytes:
        """Return its bytes."""
        form = ">BQ" if self.flags & LONG else ">BB"
        return struct.pack(form, self.flags, len(self.body)) + self.body


Edit = Callable[[list[Frame]], list[Frame]]


class Between:
    """Takes one connection, holds the first frames that a client sends until there are ``count``, and edits them."""

    def __init__(self, port: int, count: int, edit: Edit) -> None:
        self._count = count
        self._edit = edit
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        self._target = port
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        for end in [self._door, *self._ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(5)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._door.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            self._ends = [near, far]
            self._threads.append(threading.Thread(target=self._pass_on, args=(far, near), daemon=True))
            self._threads[-1].start()
            with contextlib.suppress(EOFError):
                self._rewrite(near, far)
            far.shutdown(socket.SHUT_WR)

    def _rewrite(self, near: socket.socket, far: socket.socket) -> None:
        left = GREETING_BYTES
        while left:  # In pieces, as they come: each side waits for the other's.
            far.sendall(piece := _some(near, left))
            left -= len(piece)
        for _ in range(HANDSHAKE_FRAMES):
            far.sendall(_frame(near).wire())
        frames = [_frame(near) for _ in range(self._count)]
        far.sendall(b"".join(frame.wire() for frame in self._edit(frames)))
        self._pass_on(near, far)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class Outcome(NamedTuple):
    """What came of it: whole messages at the reader, and whether the reader's libzmq has ended the connection."""

    messages: list[list[bytes]]
    ended: bool


def carried(messages: list[list[bytes]], edit: Edit) -> Outcome:
    """Send messages from a DEALER to a ROUTER with CURVE through somebody who edits their frames.

    Returns when the last frame of the last message has come, or the connection has ended.
    """
    with _pair() as (router, dealer, port):
        # At the sender's side: with a monitor of its own, the reader's libzmq may leave the connection open and silent.
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        between = Between(port, sum(map(len, messages)), edit)
        try:
            dealer.connect(f"tcp://127.0.0.1:{between.port}")
            for message in messages:
                dealer.send_multipart(message)
            return _outcome(router, monitor, messages[-1][-1])
        finally:
            between.close()
            dealer.disable_monitor()
            monitor.close(0)


def carried_wrapped(messages: list[list[bytes]], edit: Edit) -> list[list[bytes]]:
    """Send messages as the mesh does where there are keys, and return those that are taken; the last one has to be.

    One that is refused is an empty list.
    """
    with _pair() as (router, dealer, port):
        between = Between(port, len(messages), edit)
        try:
            dealer.connect(f"tcp://127.0.0.1:{between.port}")
            send, receive = wrapping(dealer), unwrapping(router, routed=True)
            for message in messages:
                send(message)
            return list(_taken(router, receive, messages[-1]))
        finally:
            between.close()


def _taken(
    router: zmq.Socket[bytes], receive: Callable[[], list[bytes] | None], last: list[bytes]
) -> Iterator[list[bytes]]:
    message: list[bytes] = []
    while message != last:
        assert router.poll(PATIENCE_MS), "the last message did not come"
        try:
            message = (receive() or [b""])[1:]
        except RefusedMessage:
            message = []
        yield message


def _outcome(router: zmq.Socket[bytes], monitor: zmq.Socket[bytes], last: bytes) -> Outcome:
    poller, got, ended = zmq.Poller(), list[list[bytes]](), False
    poller.register(router, zmq.POLLIN)
    poller.register(monitor, zmq.POLLIN)
    while not got or got[-1][-1] != last:
        ready = dict(poller.poll(PATIENCE_MS))
        assert ready, f"neither the last message nor an end: {got}"
        if router in ready:
            got.append(router.recv_multipart()[1:])
        elif ended := monitor in ready:
            break
    while ended and router.poll(0):  # What came before the end, and after it was asked for last.
        got.append(router.recv_multipart()[1:])
    return Outcome(got, ended)


@contextmanager
def _pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes], int]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        server, client = zmq.curve_keypair(), zmq.curve_keypair()
        router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        router.curve_server = True
        router.curve_secretkey = server[1]
        dealer.curve_serverkey = server[0]
        dealer.curve_publickey, dealer.curve_secretkey = client
        dealer.set(zmq.RECONNECT_IVL, -1)
        yield router, dealer, router.bind_to_random_port("tcp://127.0.0.1")
    finally:
        context.destroy(0)


def _some(source: socket.socket, size: int) -> bytes:
    if not (piece := source.recv(size)):
        raise EOFError
    return piece


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += _some(source, size - len(data))
    return data


def _frame(source: socket.socket) -> Frame:
    flags = _exactly(source, 1)[0]
    size = struct.unpack(">Q", _exactly(source, 8))[0] if flags & LONG else _exactly(source, 1)[0]
    return Frame(flags, _exactly(source, size))
