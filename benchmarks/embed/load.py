"""Client processes of the embed benchmark; each prints JSON.

``python -m benchmarks.embed.load bulk|mosec|corpus|single|interactive ADDRESS SECONDS [REQUESTS IN FLIGHT]``
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.embed.tally import Tally
from benchmarks.embed.texts import requests, texts
from benchmarks.figures import latency_summary
from benchmarks.http import HttpConnection
from mlx_mesh import AsyncMesh

WARM_S = 1.0
BULK_TIMEOUT_S = 120.0
CLIENTS = 8
CORPUS_PART = 400
"""Texts of one call: many more than are under way at a time."""

DIMENSION_BYTES = 384 * 4

Embed = Callable[[list[str]], Awaitable[object]]


async def _saturate(callers: Sequence[Embed], seconds: float) -> dict[str, float]:
    feed = itertools.cycle(requests())
    tally = Tally(WARM_S, seconds)

    async def caller(embed: Embed) -> None:
        while not tally.over:
            chunk = next(feed)
            await embed(chunk)
            tally.add(len(chunk))

    await asyncio.gather(*map(caller, callers))
    return {"texts_per_s": tally.texts_per_s()}


async def bulk(address: str, seconds: float, in_flight: int) -> dict[str, float]:
    """Keep the workers of a mesh full."""
    async with AsyncMesh(address) as mesh:

        async def embed(chunk: list[str]) -> object:
            return await mesh.embed(chunk, lane="bulk", cache=False, timeout=BULK_TIMEOUT_S)

        return await _saturate([embed] * in_flight, seconds)


async def corpus(address: str, seconds: float, _: int) -> dict[str, float]:
    """Embed the whole corpus in the bulk lane, again and again, as a program does that has a lot to embed."""
    every, done = texts(), 0
    began = time.perf_counter()
    async with AsyncMesh(address) as mesh:
        while time.perf_counter() < began + seconds:
            part = [every[(done + offset) % len(every)] for offset in range(CORPUS_PART)]
            await mesh.embed(part, lane="bulk", cache=False, timeout=BULK_TIMEOUT_S)
            done += len(part)
    return {"texts_per_s": done / (time.perf_counter() - began)}


async def mosec(address: str, seconds: float, in_flight: int) -> dict[str, float]:
    """Keep mosec's workers full."""
    async with AsyncExitStack() as stack:
        callers: list[Embed] = []
        for _ in range(in_flight):
            connection = await HttpConnection.open(int(address), "/inference")
            stack.callback(connection.close)
            callers.append(_poster(connection))
        return await _saturate(callers, seconds)


def _poster(connection: HttpConnection) -> Embed:
    async def embed(chunk: list[str]) -> object:
        answer = await connection.post(json.dumps(chunk).encode())
        assert len(answer) == len(chunk) * DIMENSION_BYTES
        return answer

    return embed


async def single(address: str, seconds: float, _: int) -> dict[str, float]:
    """One client, one text at a time."""
    async with AsyncMesh(address) as mesh:
        return latency_summary(await _one_by_one(mesh, itertools.cycle(texts()), seconds))


async def interactive(address: str, seconds: float, _: int) -> dict[str, float]:
    """Eight clients with a connection each, all asking one text at a time without a pause."""
    every = texts()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncMesh(address)) for _ in range(CLIENTS)]
        feeds = [itertools.cycle(every[number * 31 :] + every[: number * 31]) for number in range(CLIENTS)]
        samples = await asyncio.gather(*(_one_by_one(*pair, seconds) for pair in zip(clients, feeds, strict=True)))
        return latency_summary([each for found in samples for each in found])


async def _one_by_one(mesh: AsyncMesh, feed: itertools.cycle[str], seconds: float) -> list[float]:
    """Return latencies in milliseconds."""
    for _ in range(3):
        await mesh.embed([next(feed)], lane="interactive", cache=False)
    found = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await mesh.embed([next(feed)], lane="interactive", cache=False)
        found.append((time.perf_counter() - began) * 1e3)
    return found


KINDS: dict[str, Callable[[str, float, int], Any]] = {
    "bulk": bulk,
    "corpus": corpus,
    "mosec": mosec,
    "single": single,
    "interactive": interactive,
}

if __name__ == "__main__":
    kind, address, seconds, in_flight = [*sys.argv[1:], "0"][:4]
    print(json.dumps(asyncio.run(KINDS[kind](address, float(seconds), int(in_flight)))))
