"""How a client of each service makes one call; every one is written as fast as its library allows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

PAYLOAD = bytes(range(256)) * 4
"""1 KB."""

CALL_TIMEOUT_S = 30.0

Call = Callable[[bytes], Awaitable[bytes]]


@asynccontextmanager
async def mesh(address: str, callers: int) -> AsyncIterator[list[Call]]:
    """One AsyncMesh for all callers."""
    from mlx_mesh import AsyncMesh

    async with AsyncMesh(address) as client:

        async def call(payload: bytes) -> bytes:
            return await client.call("echo", payload)  # type: ignore[no-any-return]

        yield [call] * callers


@asynccontextmanager
async def nats(address: str, callers: int) -> AsyncIterator[list[Call]]:
    """One connection for all callers."""
    import nats as library

    connection = await library.connect(address)

    async def call(payload: bytes) -> bytes:
        return (await connection.request("echo", payload, timeout=CALL_TIMEOUT_S)).data

    try:
        yield [call] * callers
    finally:
        await connection.close()


@asynccontextmanager
async def mosec(address: str, callers: int) -> AsyncIterator[list[Call]]:
    """A kept connection for each caller, as HTTP/1.1 needs."""
    from benchmarks.http import HttpConnection

    async with AsyncExitStack() as stack:
        calls: list[Call] = []
        for _ in range(callers):
            connection = await HttpConnection.open(int(address), "/inference")
            stack.callback(connection.close)
            calls.append(connection.post)
        yield calls


@asynccontextmanager
async def mosec_aiohttp(address: str, callers: int) -> AsyncIterator[list[Call]]:
    """One session of the usual HTTP library for asyncio, with as many connections as there are callers."""
    import aiohttp

    url = f"http://127.0.0.1:{address}/inference"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=callers)) as session:

        async def call(payload: bytes) -> bytes:
            async with session.post(url, data=payload) as response:
                response.raise_for_status()
                return await response.read()

        yield [call] * callers


ASYNCIO = {"mesh": mesh, "nats": nats, "mosec": mosec, "mosec-aiohttp": mosec_aiohttp}
