"""Where text comes from: the mesh by its own client, or mlx_lm.server over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, Protocol, Self

from benchmarks.http import HttpError
from mlx_mesh import AsyncMesh

TIMEOUT_S = 180.0
Messages = Sequence[Mapping[str, Any]]


class Piece(NamedTuple):
    """What arrived: how many tokens (0 if that is not said), their text, and with the last one the usage."""

    tokens: int
    text: str
    usage: Mapping[str, int] | None = None


class Source(Protocol):
    """Somebody who generates."""

    counts_pieces: bool
    """Whether pieces do not say how many tokens they have."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *error: object) -> None: ...

    def pieces(self, asked: str | Messages, max_tokens: int, lane: str = "standard") -> AsyncIterator[Piece]:
        """Return the text that follows a prompt, or the answer to a conversation; leaving it early cancels it."""


class MeshSource:
    """The mesh. The address is its endpoint."""

    counts_pieces = False

    def __init__(self, address: str) -> None:
        self._mesh = AsyncMesh(address)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._mesh)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def pieces(self, asked: str | Messages, max_tokens: int, lane: str = "standard") -> AsyncIterator[Piece]:
        mesh = self._mesh
        if isinstance(asked, str):
            stream = mesh.generate(asked, max_tokens=max_tokens, lane=lane, timeout=TIMEOUT_S)
        else:
            stream = mesh.chat(asked, max_tokens=max_tokens, lane=lane, timeout=TIMEOUT_S)
        async with stream:
            async for chunk in stream:
                yield Piece(len(chunk.tokens), chunk.text)
            assert stream.result is not None
            yield Piece(0, "", stream.result.usage)


class ServerSource:
    """mlx_lm.server. The address is its port. It closes the connection after each answer."""

    counts_pieces = True

    def __init__(self, address: str) -> None:
        self._port = int(address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def pieces(self, asked: str | Messages, max_tokens: int, lane: str = "standard") -> AsyncIterator[Piece]:
        chat = not isinstance(asked, str)
        body = {
            "messages" if chat else "prompt": asked,
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        path = "/v1/chat/completions" if chat else "/v1/completions"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(_post(path, json.dumps(body).encode()))
            status = await reader.readline()
            if status.split()[1:2] != [b"200"]:
                raise HttpError((status + await reader.read()).decode(errors="replace"))
            async for line in reader:
                if line.startswith(b"data: {"):
                    yield _piece(json.loads(line[6:]))
        finally:
            writer.close()


SOURCES: dict[str, type[MeshSource] | type[ServerSource]] = {"mesh": MeshSource, "server": ServerSource}


def _post(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _piece(event: dict[str, Any]) -> Piece:
    if not event["choices"]:
        usage = event["usage"]
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        found = {"prompt": usage["prompt_tokens"], "completion": usage["completion_tokens"], "cached": cached}
        return Piece(0, "", found)
    choice = event["choices"][0]
    text = choice["text"] if "text" in choice else choice.get("delta", {}).get("content", "")
    return Piece(1 if text else 0, text or "")
