"""Attacks by what the broker does for its peers: sessions, answers, subscriptions, commands, metrics."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from mlx_mesh_wire import encode_header, messages
from tests.abuse.messages_sent import hello, patient, repeat, request
from tests.abuse.target import Target, attack
from tests.abuse.zmtp import frame, handshaken, message, vanish

READERS = 20
BIG_BYTES = 4 << 20


@attack("hellos of new sessions", "sessions", processes=2)
def hellos(target: Target) -> int:
    done = 0
    while target.going_on:
        with contextlib.suppress(OSError):
            connection = patient(handshaken(target.tcp))
            for _ in range(40):
                connection.sendall(b"".join(hello() for _ in range(500)))
                done += 500
                if not target.going_on:
                    break
            vanish(connection)
    return done


@attack("clients that never read", "large requests whose answers nobody reads")
def unread(target: Target) -> int:
    body = b"\xc6" + BIG_BYTES.to_bytes(4, "big") + bytes(BIG_BYTES)
    done = 0
    held = []
    for reader in range(READERS):
        with contextlib.suppress(OSError):
            connection = patient(handshaken(target.tcp if reader % 2 else target.ipc))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(hello())
            held.append(connection)
    while target.going_on:
        for connection in held:
            with contextlib.suppress(OSError):
                connection.settimeout(1)
                connection.sendall(request(done + 1, body=body))
                done += 1
    for connection in held:
        vanish(connection)
    return done


@attack("subscription floods", "subscriptions", processes=2)
def subscriptions(target: Target) -> int:
    """Subscribe to as many things as possible, and to the same one again and again, and leave."""
    done = 0
    while target.going_on:
        with contextlib.suppress(OSError):
            connection = patient(handshaken(target.events, "SUB"))
            for turn in range(20):
                topics = [os.urandom(8).hex().encode() if turn % 2 else b"requests" for _ in range(1000)]
                connection.sendall(b"".join(frame(b"\x01" + topic) + frame(b"\x00" + topic) for topic in topics))
                connection.sendall(b"".join(frame(b"\x01" + topic) for topic in topics))
                done += 3 * len(topics)
                if not target.going_on:
                    break
            vanish(connection)
    return done


@attack("commands", "commands, status among them", processes=2)
def commands(target: Target) -> int:
    names = ("status", "config", "ping", "drain", "no such command")
    said = b"".join(message([encode_header(messages.Command(n, name))]) for n, name in enumerate(names, 1))
    return repeat(target, target.control, said * 20, 20 * len(names))


@attack("statuses", "status requests of clients", processes=2)
def statuses(target: Target) -> int:
    said = b"".join(message([encode_header(messages.Status(n))]) for n in range(1, 101))
    return repeat(target, target.tcp, said, 100, hello())


@attack("scrapes", "requests of /metrics", processes=2)
def scrapes(target: Target) -> int:
    done = 0
    while target.going_on:
        held = []
        with contextlib.suppress(OSError):
            for _ in range(40):
                connection = socket.create_connection(("127.0.0.1", target.metrics_port), 2)
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                held.append(connection)
        for connection in held:
            with contextlib.suppress(OSError):
                done += connection.recv(64).startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
            connection.close()
        time.sleep(0.01)
    return done
