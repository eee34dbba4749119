"""What clients do besides keeping streams busy: leave early, ask beside a long prompt, go on with a conversation."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.generate.sources import Messages, Source

SETTLE_S = 1.0
ENDLESS = 2000
"""Tokens of a text that is to run until it is left; where it ends before, it begins again."""

BUCKET_S = 0.1
SHORT_TOKENS = 4
PAUSE_S = 0.3
"""Between the long prompt and the first short one, and between the short ones."""


class Reader:
    """Reads a text in a task of its own and notes the time of each piece, by the system's monotonic clock."""

    def __init__(self, source: Source, asked: str | Messages, max_tokens: int, lane: str = "standard") -> None:
        self.began = time.monotonic()
        self.times: list[float] = []
        self.text = ""
        self.task = asyncio.create_task(self._read(source, asked, max_tokens, lane))
        self._first = asyncio.Event()
        self.task.add_done_callback(lambda _: self._first.set())

    async def _read(self, source: Source, asked: str | Messages, max_tokens: int, lane: str) -> None:
        await self._once(source, asked, max_tokens, lane)
        while max_tokens == ENDLESS:
            await self._once(source, asked, max_tokens, lane)

    async def _once(self, source: Source, asked: str | Messages, max_tokens: int, lane: str) -> None:
        async for piece in source.pieces(asked, max_tokens, lane):
            if piece.text:
                self.times.append(time.monotonic())
                self.text += piece.text
                self._first.set()

    async def first_ms(self) -> float:
        """Wait for the first text and return what it took; for the end if there is none.

        Raises:
            ValueError: the text ended with nothing to see.
        """
        await self._first.wait()
        if not self.times:
            await self.task
            raise ValueError("a text ended with nothing to see")
        return (self.times[0] - self.began) * 1e3

    async def leave(self) -> float:
        """Cancel, and return when."""
        left = time.monotonic()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        return left


async def _running(source: Source, prompts: list[str]) -> list[Reader]:
    readers = [Reader(source, prompt, ENDLESS) for prompt in prompts]
    for reader in readers:
        await reader.first_ms()
    await asyncio.sleep(SETTLE_S)
    return readers


async def _leave_all(readers: list[Reader]) -> None:
    for reader in readers:
        await reader.leave()


async def cancel(source: Source, plan: Mapping[str, Any]) -> dict[str, list[float]]:
    """Leave one of some streams, again and again; return when, by the system's monotonic clock."""
    chance = random.Random(1)
    readers = await _running(source, plan["prompts"][: plan["streams"]])
    left = []
    for prompt in plan["prompts"][plan["streams"] :]:
        await asyncio.sleep(chance.uniform(*plan["pause_s"]))
        index = chance.randrange(len(readers))
        left.append(await readers[index].leave())
        await asyncio.sleep(plan["pause_s"][1])  # whoever takes that long is still to be seen removing the row
        readers[index] = Reader(source, prompt, ENDLESS)
        await readers[index].first_ms()
    await _leave_all(readers)
    return {"left": left}


async def long(source: Source, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Send a long prompt beside running streams, and short interactive ones while it is read."""
    readers = await _running(source, plan["prompts"])
    await asyncio.sleep(plan["usual_s"])
    big = Reader(source, plan["long"], SHORT_TOKENS)
    reading = asyncio.create_task(big.first_ms())
    shorts = []
    for prompt in plan["shorts"]:
        await asyncio.sleep(PAUSE_S)
        if reading.done():
            break
        short = Reader(source, prompt, SHORT_TOKENS, "interactive")
        shorts.append(await short.first_ms())
        await short.task  # so that one more is asked for only then
    long_ms = await reading
    await asyncio.sleep(SETTLE_S)
    await _leave_all([big, *readers])
    gaps = [(b - big.began, b - a) for r in readers for a, b in zip(r.times, r.times[1:], strict=False)]
    return {"long_first_ms": long_ms, "short_first_ms": shorts, **gap_figures(gaps, long_ms / 1e3, plan["usual_s"])}


def gap_figures(gaps: list[tuple[float, float]], read_s: float, usual_s: float) -> dict[str, Any]:
    """Return how running streams fared while a long prompt was read.

    Args:
        gaps: seconds since the long prompt was sent, and since the stream's last piece.
        read_s: when its first token came.
        usual_s: how long before it the usual gaps are looked at.

    Returns:
        milliseconds: the usual median, the median and the worst while it was read; the worst as a multiple of the usual
        median; and over time the worst in each tenth of a second.
    """
    usual = [gap for at, gap in gaps if -usual_s <= at < 0] or [math.nan]
    meanwhile = [gap for at, gap in gaps if 0 <= at - gap < read_s] or [math.nan]
    worst: dict[int, float] = {}
    for at, gap in gaps:
        if at >= -usual_s:
            bucket = math.floor(at / BUCKET_S)
            worst[bucket] = max(gap, worst.get(bucket, 0.0))
    return {
        "usual_ms": median(usual) * 1e3,
        "meanwhile_ms": median(meanwhile) * 1e3,
        "worst_ms": max(meanwhile) * 1e3,
        "worst_of_usual": max(meanwhile) / median(usual),
        "over_time": [[bucket * BUCKET_S, worst[bucket] * 1e3] for bucket in sorted(worst)],
    }


async def chat(source: Source, plan: Mapping[str, Any]) -> dict[str, list[float]]:
    """Ask a second time in a conversation that is known, and the same much in one that is not."""
    found: dict[str, list[float]] = {"first_turn_ms": [], "known_ms": [], "cold_ms": []}
    for known, unknown in plan["conversations"]:
        begun: list[dict[str, str]] = [{"role": "user", "content": known["first"]}]
        turn = Reader(source, begun, plan["answer"])
        found["first_turn_ms"].append(await turn.first_ms())
        await turn.task
        for name, said in (("known_ms", known), ("cold_ms", unknown)):
            messages = [
                {"role": "user", "content": said["first"]},
                {"role": "assistant", "content": turn.text},
                {"role": "user", "content": said["second"]},
            ]
            reader = Reader(source, messages, SHORT_TOKENS)
            found[name].append(await reader.first_ms())
            await reader.task
    return found
