"""Texts are generated while their workers are killed; each must end normally and equal that of an undisturbed run.

``python -m tests.faults.streams --streams 16 --kills 20 [--storm] [--broker] [--hurry]``

In each round all streams run and one worker that generates is killed. ``--storm`` kills again and again within a round,
as soon as all workers are back, so that some streams meet two deaths before they could get on and count as poison;
``--broker`` kills the broker instead; with ``--hurry`` the worker is told to leave at once, as by a recycle whose time
is up, and hands its streams back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.llama import make_llama
from mlx_mesh import AsyncMesh, GenerateResult, PoisonRequestError
from tests.live import LiveMesh, Process, live_mesh

WORKERS = 2
TOKENS = 160
TOKENS_STORM = 1500
PATIENCE_S = 240.0


class Story(NamedTuple):
    """One stream: its text, its token ids, and how it ended."""

    text: str
    tokens: list[int]
    result: GenerateResult


class Outcome(NamedTuple):
    rounds: int
    kills: int
    streams: int
    moved: int
    different: int
    poisoned: int
    longest_gap_s: float
    seconds: float


class Mesh:
    """A broker and workers that are started again when they end, as supervisord does."""

    def __init__(self, live: LiveMesh, model: Path) -> None:
        self._live = live
        self._model = model
        self._broker = live.broker()
        self._workers = [self._start(n) for n in range(WORKERS)]

    def _start(self, number: int) -> Process:
        return self._live.worker("generate", f"g{number}", "--model", str(self._model))

    async def keep(self) -> None:
        while True:
            for number, worker in enumerate(self._workers):
                if worker.poll() is not None:
                    self._workers[number] = self._start(number)
            if self._broker.poll() is not None:
                self._broker = self._live.broker()
            await asyncio.sleep(0.05)

    def kill_broker(self) -> bool:
        self._broker.kill()
        self._broker.wait()
        return True

    async def end_one(self, client: AsyncMesh, chance: random.Random, hurry: bool) -> bool:
        """End a worker that generates, if another can take over: two deaths in a row look like poison."""
        status = await client.status(timeout=PATIENCE_S)
        if sum(worker["state"] == "ready" for worker in status["workers"]) < WORKERS:
            return False
        busy = [worker["pid"] for worker in status["workers"] if worker["in_flight"] and worker["host"]]
        own = {worker.pid: f"g{number}" for number, worker in enumerate(self._workers)}
        found = sorted(set(busy) & own.keys())
        if not found:
            return False
        chosen = chance.choice(found)
        if not hurry:
            os.kill(chosen, signal.SIGKILL)
            return True
        drained = self._drained(own[chosen])
        os.kill(chosen, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            # Two signals of a kind at once are one.
            while self._drained(own[chosen]) == drained:  # noqa: ASYNC110  workers send no event
                await asyncio.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.kill(chosen, signal.SIGTERM)
        return True

    def _drained(self, name: str) -> int:
        """Return how often a worker of this name has begun to drain."""
        return self._live.log(name).count(" draining ")


async def until_ready(client: AsyncMesh) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len([w for w in (await client.status(timeout=PATIENCE_S))["workers"] if w["state"] == "ready"]) < WORKERS:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def tell(client: AsyncMesh, number: int, gaps: list[float], count: int) -> Story:
    """Read one stream; half of them are greedy, half are sampled; none ends before its time."""
    asked: dict[str, Any] = {"max_tokens": count, "temperature": number % 2 * 1.0, "seed": number}
    asked["logit_bias"] = {1: -100}
    chunks = []
    generation = client.generate(f"Story number {number}, as it was told:", timeout=PATIENCE_S, **asked)
    last = time.monotonic()
    async for chunk in generation:
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        chunks.append(chunk)
    assert generation.result is not None
    tokens = [token for chunk in chunks for token in chunk.tokens]
    return Story("".join(chunk.text for chunk in chunks), tokens, generation.result)


async def run(
    live: LiveMesh,
    model: Path,
    streams: int,
    kills: int,
    *,
    storm: bool = False,
    broker: bool = False,
    hurry: bool = False,
) -> Outcome:
    chance = random.Random(7)
    count = TOKENS_STORM if storm else TOKENS
    mesh = Mesh(live, model)
    keeper = asyncio.create_task(mesh.keep())
    done = rounds = moved = different = poisoned = 0
    gaps: list[float] = []
    async with AsyncMesh(live.endpoint) as client:
        await client.ready(["generate"], timeout=PATIENCE_S)
        await until_ready(client)
        calm = await asyncio.gather(*(tell(client, n, [], count) for n in range(streams)))
        began = time.monotonic()
        while done < kills:
            await until_ready(client)
            tasks = [asyncio.create_task(tell(client, n, gaps, count)) for n in range(streams)]
            rounds += 1
            here = 0
            while done < kills and (storm or not here) and not all(task.done() for task in tasks):
                await asyncio.sleep(chance.uniform(0.1, 0.8))
                if all(task.done() for task in tasks):
                    break
                if mesh.kill_broker() if broker else await mesh.end_one(client, chance, hurry):
                    here += 1
                    done += 1
            for number, story in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
                if storm and isinstance(story, PoisonRequestError):
                    poisoned += 1
                    continue
                if isinstance(story, BaseException):
                    raise story
                moved += story.result.usage["moved"]
                same = (story.text, story.tokens) == (calm[number].text, calm[number].tokens)
                if not same or story.result.finish_reason != calm[number].result.finish_reason:
                    different += 1
            print(f"round {rounds}: {here} kills, {moved} moves so far, {different} texts differ", flush=True)
        seconds = time.monotonic() - began
    keeper.cancel()
    return Outcome(rounds, done, streams, moved, different, poisoned, max(gaps), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--storm", action="store_true", help="kill again within a round")
    parser.add_argument("--broker", action="store_true", help="kill the broker instead of workers")
    parser.add_argument("--hurry", action="store_true", help="have workers leave at once instead of killing them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, live_mesh() as live:
        model = make_llama(Path(folder) / "tiny-llama", "tiny")
        outcome = asyncio.run(
            run(live, model, args.streams, args.kills, storm=args.storm, broker=args.broker, hurry=args.hurry)
        )
    print(outcome)
    return 1 if outcome.different else 0


if __name__ == "__main__":
    sys.exit(main())
