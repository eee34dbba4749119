"""Attacks by what is said on a good connection."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import msgpack

from mlx_mesh_wire import encode_header, limits, messages, pack_body
from tests.abuse.target import Target, attack
from tests.abuse.zmtp import frame, handshaken, message, vanish

EMPTY = 200_000
CHUNK_BYTES = 900_000
"""A hundred of these are 90 MB."""


def hello(session: bytes | None = None) -> bytes:
    """Return a whole HELLO."""
    return message([encode_header(messages.Hello(1, 0, session or os.urandom(16), "abuser", ""))])


def request(number: int, op: str = "echo", body: bytes | None = None, *, window: int = 0) -> bytes:
    """Return a whole REQUEST."""
    made = messages.Request(number, op, "", 1, 5000, 0, window, b"", "")
    return message([encode_header(made), *([body] if body is not None else map(bytes, pack_body("x")))])


def patient(connection: socket.socket) -> socket.socket:
    """Have it wait as long as an attack may last: the broker reads when it can, and not faster."""
    connection.settimeout(10)
    return connection


def say(target: Target, connection: socket.socket, said: bytes) -> bool:
    """Send in pieces while there is time; return whether all was sent."""
    view = memoryview(said)
    for at in range(0, len(view), 1 << 18):
        if not target.going_on:
            return False
        connection.sendall(view[at : at + (1 << 18)])
    return True


def repeat(target: Target, endpoint: str, said: bytes, count: int, opening: bytes = b"") -> int:
    """Say the same on one connection after another; return how many things of ``count`` each were said."""
    done = 0
    while target.going_on:
        with contextlib.suppress(OSError):
            connection = patient(handshaken(endpoint))
            connection.sendall(opening)
            while say(target, connection, said):
                done += count
            vanish(connection)
    return done


@attack("empty frames", "messages of one empty frame", processes=2)
def empty(target: Target) -> int:
    return repeat(target, target.tcp, frame(b"") * EMPTY, EMPTY)


@attack("empty frames in one message", "empty frames, 200,000 in a message")
def many_frames(target: Target) -> int:
    said = frame(b"", more=True) * (EMPTY - 1) + frame(b"")
    return repeat(target, target.tcp, said, EMPTY)


@attack("100 frames, 90 MB", "messages")
def large(target: Target) -> int:
    header = encode_header(messages.Request(1, "echo", "", 1, 5000, 0, 0, b"", ""))
    said = message([header, *([b"x" * CHUNK_BYTES] * 99)])
    return repeat(target, target.ipc, said, 1, hello())


def bombs() -> list[bytes]:
    """Headers and bodies that are small and claim to be huge, or are deep."""
    huge = struct.pack(">I", 2**32 - 1)
    return [
        b"\x91" * 4000,
        b"\x81" * 4000,
        b"\xdd" + huge,
        b"\xdf" + huge,
        b"\xc6" + huge,
        b"\xdb" + huge,
        b"\xc9" + huge + b"\x01",
        b"\xdd\x00\x00\x0f\x00" * 800,
        b"\xdf\x00\x00\x0f\x00" * 800,
        b"\x9f" + (b"\xdc\x0f\xf0" * 1300),
        msgpack.packb([1] + [[0] * 15] * 250),
        msgpack.packb({n: n for n in range(1000)}),
    ]


@attack("msgpack bombs", "headers and bodies")
def bomb(target: Target) -> int:
    every = bombs()
    said = b"".join(message([each]) for each in every)
    said += b"".join(request(number, body=each) for number, each in enumerate(every, 1))
    deep = b"\x91" * 2**20 + b"\xc0"
    return repeat(target, target.tcp, said + request(99, body=deep), 2 * len(every) + 1, hello())


@attack("header floods", "headers of the largest size, good and over it", processes=2)
def headers(target: Target) -> int:
    good = msgpack.packb([*[99], b"x" * (limits.HEADER_MAX_BYTES - 16)])
    over = b"x" * (limits.HEADER_MAX_BYTES + 1)
    welcome = encode_header(messages.Hello(1, 0, os.urandom(16), "n" * limits.NAME_MAX_CHARS, ""))
    said = b"".join(map(frame, (good, over, welcome, good[:-1]))) * 100
    return repeat(target, target.tcp, said, 400)


@attack("a message without end", "frames of 1 MB of one message, 300 at most")
def endless(target: Target) -> int:
    """Frames of a message that never ends are kept by libzmq, outside of every bound but that of a frame."""
    done = 0
    said = frame(b"x" * 10**6, more=True)
    with contextlib.suppress(OSError):
        connection = patient(handshaken(target.tcp))
        with contextlib.suppress(OSError):
            while target.going_on and done < 300 and say(target, connection, said):
                done += 1
        vanish(connection)
    return done


@attack("bundles of pings", "bundles of the smallest messages that a header has room for", processes=2)
def bundled(target: Target) -> int:
    ping = encode_header(messages.Ping(1))
    count = 600
    lengths = [part for _ in range(count) for part in (len(ping), 0)]
    said = message([encode_header(messages.Bundle(lengths)), ping * count])
    return repeat(target, target.tcp, said * 20, 20, hello())
