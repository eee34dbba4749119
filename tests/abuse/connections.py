"""Attacks by connections alone: before, within and instead of the handshake."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import time

from tests.abuse.target import Target, attack
from tests.abuse.zmtp import GREETING, dial, handshaken, message, ready, vanish

SILENT = 1000
LORIS = 200
GARBAGE = (
    b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"\xff" * 4096,
    b"\0" * 4096,
    GREETING[:10] + b"\xff" * 54,
    GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
    GREETING + ready("SUB"),
    GREETING + b"\x04\xff" + bytes(255),
    GREETING + b"\x06" + b"\x7f" * 8,
)


def allow_files(wanted: int) -> None:
    """Raise this process's limit of descriptors as far as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@attack("nothing", "one: for comparison")
def nothing(target: Target) -> int:
    while target.going_on:
        time.sleep(0.05)
    return 1


@attack("silent peers", "connections that say nothing, made anew when they are closed")
def silent(target: Target) -> int:
    allow_files(SILENT + 100)
    made = 0
    held: list[socket.socket] = []
    while target.going_on:
        for connection in held[:]:
            if closed(connection):
                held.remove(connection)
                connection.close()
        while len(held) < SILENT and target.going_on:
            with contextlib.suppress(OSError):
                held.append(dial(target.tcp))
                made += 1
        time.sleep(0.1)
    for connection in held:
        vanish(connection)
    return made


def closed(connection: socket.socket) -> bool:
    """Whether the broker has hung up; what it said is thrown away."""
    connection.setblocking(False)
    try:
        return not connection.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


@attack("garbage greetings", "connections that open with something else")
def garbage(target: Target) -> int:
    made = 0
    for said in itertools.cycle((*GARBAGE, None)):
        if not target.going_on:
            return made
        with contextlib.suppress(OSError):
            connection = dial(target.tcp if made % 2 else target.ipc)
            connection.sendall(os.urandom(256) if said is None else said)
            vanish(connection)
            made += 1
    return made


@attack("half greetings", "bytes, one at a time")
def loris(target: Target) -> int:
    said = 0
    whole = GREETING + ready()
    held: dict[socket.socket, int] = {}
    while target.going_on:
        while len(held) < LORIS and target.going_on:
            with contextlib.suppress(OSError):
                held[dial(target.tcp if len(held) % 2 else target.ipc)] = 0
        for connection, at in list(held.items()):
            try:
                connection.sendall(whole[at : at + 1])
            except OSError:
                del held[connection]
                connection.close()
                continue
            held[connection] = min(at + 1, len(whole) - 2)  # The last bytes are never said.
            said += 1
        time.sleep(0.05)
    for connection in held:
        vanish(connection)
    return said


@attack("connect, send, vanish", "connections that said something and were gone", processes=3)
def vanishing(target: Target) -> int:
    from mlx_mesh_wire import encode_header, messages, pack_body

    hello = message([encode_header(messages.Hello(1, 0, os.urandom(16), "gone", ""))])
    request = messages.Request(1, "echo", "", 1, 5000, 0, 0, b"", "")
    request_frames = [encode_header(request), *map(bytes, pack_body("x"))]
    said = hello + message(request_frames)
    done = 0
    while target.going_on:
        with contextlib.suppress(OSError):
            connection = handshaken(target.tcp if done % 2 else target.ipc)
            connection.sendall(said)
            vanish(connection)
            done += 1
    return done
