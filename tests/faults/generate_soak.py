"""Thousands of short texts through one worker; neither what MLX holds nor the process may grow once all is warm.

``python -m tests.faults.generate_soak --requests 10000``

Prints both after every tenth of the requests and exits with 1 if either ends more than 8 % above what it was after the
first tenth, or more than 3 % above what it was after the first half.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.llama import make_llama
from mlx_mesh import AsyncMesh
from tests.live import LiveMesh, live_mesh

AT_ONCE = 24
GROWTH_MAX = 0.08
"""Since the first tenth: a heap takes a step or two of some megabytes before it is as large as it gets."""

GROWTH_LATE_MAX = 0.03
"""Since the first half: half a kilobyte a request would be more."""

PATIENCE_S = 60.0
CALM_S = 1.5
"""Longer than a worker takes from its last step to the beat that tells its memory."""

ENV = {"MLX_MESH_GENERATE_PREFIX_MAX_BYTES": str(4 * 2**20), "MLX_MESH_GENERATE_CACHE_LIMIT": str(32 * 2**20)}
"""What is kept on purpose is full soon, so that what grows after that is a leak."""

SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}


class Sample(NamedTuple):
    """Bytes after so many requests."""

    requests: int
    active: int
    rss: int


def asked(chance: random.Random) -> dict[str, Any]:
    """Return the keywords of a request."""
    how: dict[str, Any] = {
        "max_tokens": chance.randint(1, 24),
        "lane": chance.choice(["interactive", "standard", "bulk"]),
    }
    if chance.random() < 0.6:
        how |= {"temperature": chance.choice([0.5, 1.0]), "seed": chance.randrange(10**6), "top_p": 0.95}
    if chance.random() < 0.2:
        how |= {"repetition_penalty": 1.2}
    if chance.random() < 0.2:
        how |= {"stop": [chance.choice(["e", "the", " a"])]}
    if chance.random() < 0.1:
        how |= {"logprobs": True, "top_logprobs": 3}
    if chance.random() < 0.05:
        how |= {"json_schema": SCHEMA, "max_tokens": 60}
    return how


async def one(mesh: AsyncMesh, number: int, chance: random.Random) -> None:
    """Ask for a text or a chat; some readers leave early."""
    words = " ".join(f"word {chance.randrange(1000)}" for _ in range(chance.choice([1, 2, 5, 20])))
    how = asked(chance)
    if number % 5:
        generation = mesh.generate(words, timeout=PATIENCE_S, **how)
    else:
        said = [{"role": "system", "content": "Be brief. " * 5}, {"role": "user", "content": words}]
        generation = mesh.chat(said, timeout=PATIENCE_S, **how)
    if number % 23:
        await generation.text()
        assert generation.result is not None
    else:
        async with generation:
            await anext(aiter(generation), None)


async def crowd(mesh: AsyncMesh, first: int, count: int) -> None:
    """Ask for so many texts, some at a time."""
    numbers = iter(range(first, first + count))

    async def some() -> None:
        for number in numbers:
            await one(mesh, number, random.Random(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())


async def sample(mesh: AsyncMesh, requests: int) -> Sample:
    """Wait until the worker rests and return what it holds."""
    end = time.monotonic() + PATIENCE_S
    while True:
        await asyncio.sleep(CALM_S)
        (worker,) = (await mesh.status())["workers"]
        if not worker["in_flight"] and not worker["memory"]["kv"]:
            return Sample(requests, worker["memory"]["mlx_active"], psutil.Process(worker["pid"]).memory_info().rss)
        assert time.monotonic() < end, f"the worker does not come to rest: {worker}"


async def soak(live: LiveMesh, requests: int, parts: int) -> list[Sample]:
    """Ask for the texts in parts; return what the worker held after each."""
    samples = []
    async with AsyncMesh(live.endpoint) as mesh:
        await mesh.ready(["generate", "chat"], timeout=PATIENCE_S)
        for part in range(parts):
            await crowd(mesh, part * requests // parts, requests // parts)
            samples.append(await sample(mesh, (part + 1) * requests // parts))
            count, active, rss = samples[-1]
            print(f"{count:6} requests: {active:>10} bytes in MLX, {rss:>11} in RSS", flush=True)
    return samples


def run(requests: int, parts: int = 10) -> list[Sample]:
    """Start a mesh with one worker and soak it."""
    with tempfile.TemporaryDirectory() as folder, live_mesh() as live:
        live.env.update(ENV)
        model = make_llama(Path(folder) / "tiny-llama", "tiny")
        live.broker()
        live.worker("generate", "g0", "--model", str(model))
        return asyncio.run(soak(live, requests, parts))


def growth(samples: list[Sample], since: int = 0) -> tuple[float, float]:
    """Return by which part what MLX holds and the process grew since a sample."""
    return samples[-1].active / samples[since].active - 1, samples[-1].rss / samples[since].rss - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    began = time.monotonic()
    samples = run(args.requests)
    whole, late = growth(samples), growth(samples, len(samples) // 2 - 1)
    print(f"MLX {whole[0]:+.1%}, RSS {whole[1]:+.1%}; second half: MLX {late[0]:+.1%}, RSS {late[1]:+.1%}")
    print(f"{args.requests / (time.monotonic() - began):.0f} requests a second")
    return 0 if max(whole) <= GROWTH_MAX and max(late) <= GROWTH_LATE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
