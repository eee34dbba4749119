"""A peer that speaks ZMTP 3 by hand, without a mechanism: unlike a socket of libzmq, it may have any routing id."""

from __future__ import annotations

import socket
import struct

GREETING_BYTES = 64
FIRST_UNSEEDED = "006b8b4567"
"""The first routing id that libzmq gives if nobody has seeded ``rand`` of glibc."""


class RawPeer:
    """Connects as a DEALER with a routing id, and says one word."""

    def __init__(self, port: int, routing_id: bytes, word: bytes = b"word") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        self._read(GREETING_BYTES)
        ready = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", routing_id)
        self.socket.sendall(_frame(b"\x04", b"\x06", ready) + _frame(b"\x00", b"\x02", word))

    def _read(self, size: int) -> None:
        while size:
            piece = self.socket.recv(size)
            assert piece, "the connection ended in its greeting"
            size -= len(piece)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def _frame(short: bytes, long: bytes, body: bytes) -> bytes:
    return short + bytes([len(body)]) + body if len(body) < 256 else long + struct.pack(">Q", len(body)) + body
