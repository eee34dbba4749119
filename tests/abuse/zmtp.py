"""ZMTP by hand on a plain socket: what libzmq would never send, and as fast as the kernel takes it."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
PATIENCE_S = 2.0


def frame(body: bytes, *, more: bool = False) -> bytes:
    """Return one frame as it is on the wire."""
    return head(len(body), more=more) + body


def head(size: int, *, more: bool = False, command: bool = False) -> bytes:
    """Return what comes before a frame of so many bytes, whether they follow or not."""
    flags = (MORE if more else 0) | (COMMAND if command else 0)
    return bytes([flags, size]) if size < 256 else struct.pack(">BQ", flags | LONG, size)


def message(frames: Sequence[bytes]) -> bytes:
    """Return a whole message."""
    return b"".join(frame(each, more=number < len(frames) - 1) for number, each in enumerate(frames))


def ready(kind: str = "DEALER") -> bytes:
    """Return the command with which a peer of a kind ends its handshake."""
    body = b"\x05READY"
    for name, value in ((b"Socket-Type", kind.encode()), (b"Identity", b"")):
        body += bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
    return head(len(body), command=True) + body


def dial(endpoint: str, timeout_s: float = PATIENCE_S) -> socket.socket:
    """Return a plain connection to an ipc or TCP endpoint."""
    parts = urlsplit(endpoint)
    if parts.scheme == "ipc":
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(timeout_s)
        made.connect(str(Path(parts.path)))
        return made
    made = socket.create_connection((parts.hostname or "", parts.port or 0), timeout_s)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def handshaken(endpoint: str, kind: str = "DEALER") -> socket.socket:
    """Return a connection on which messages can be sent at once; what the broker says of itself is not waited for."""
    made = dial(endpoint)
    made.sendall(GREETING + ready(kind))
    return made


def vanish(connection: socket.socket) -> None:
    """Close with a reset, so that no port is left waiting: a host could else make 28,000 connections a minute."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
