"""An HTTP/1.1 client for asyncio that does only what mosec needs: POST over one kept connection, one at a time.

It is as thin as a client can be, so that what is measured is the server and not an HTTP library.
"""

from __future__ import annotations

import asyncio
from typing import Self


class HttpError(Exception):
    """The server answered with another status than 200, or left."""


class HttpConnection(asyncio.Protocol):
    """One connection to one address."""

    def __init__(self, path: str) -> None:
        self._head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ".encode()
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport

    @classmethod
    async def open(cls, port: int, path: str) -> Self:
        """Connect to a port of this machine."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: cls(path), "127.0.0.1", port)
        return protocol

    async def post(self, body: bytes) -> bytes:
        """Return the body of the answer.

        Raises:
            HttpError: not 200.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        return await self._answer

    def close(self) -> None:
        """Leave."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[:end].lower()
        _, found, rest = head.partition(b"content-length:")
        length = int(rest.partition(b"\r\n")[0]) if found else 0
        if len(data) < end + 4 + length:
            return
        self._buffer = b""
        answer = self._answer
        if answer is None or answer.done():
            return
        if data[9:12] == b"200":
            answer.set_result(data[end + 4 : end + 4 + length])
        else:
            answer.set_exception(HttpError(data[: end + 4 + length].decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(HttpError(f"the connection was closed: {error}"))
