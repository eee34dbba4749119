"""Client processes of the generate benchmark; each does one scene and prints JSON.

``python -m benchmarks.generate.load SCENE mesh|server ADDRESS PLAN``; PLAN is a file of JSON, the scene's arguments.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.generate.meter import Meter
from benchmarks.generate.scenes import cancel, chat, long
from benchmarks.generate.sources import SOURCES, Source


class Closed:
    """Streams that are kept busy: each asks for its next text when the last has ended."""

    def __init__(self, source: Source, plan: Mapping[str, Any]) -> None:
        self._source = source
        self._streams: int = plan["streams"]
        self._feed: Iterator[tuple[str, int]] = iter(plan["requests"])
        self._meter = Meter(self._streams, plan["seconds"])
        self._over = asyncio.Event()
        self._cached = 0

    async def run(self) -> dict[str, float]:
        """Return the meter's figures, the tokens that came from prefix caches, and the CPU seconds of this process."""
        tasks = [asyncio.create_task(self._stream()) for _ in range(self._streams)]
        for task in tasks:
            task.add_done_callback(lambda _: self._over.set())
        await self._over.wait()
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        found = self._meter.figures(counts_pieces=self._source.counts_pieces)
        return {**found, "cached_tokens": self._cached, "client_cpu_s": time.process_time()}

    async def _stream(self) -> None:
        await self._text(opens=True)
        while not self._meter.over:
            await self._text(opens=False)

    async def _text(self, *, opens: bool) -> None:
        meter, (prompt, max_tokens) = self._meter, next(self._feed)
        track = meter.begin(opens=opens)
        hidden = 0
        async for piece in self._source.pieces(prompt, max_tokens):
            if piece.usage is not None:
                meter.end(track, piece.usage["completion"])
                self._cached += piece.usage["cached"]
            elif piece.text:
                meter.piece(track, piece.tokens + hidden)
                hidden = 0
            else:
                hidden += piece.tokens
            if meter.over:
                self._over.set()


async def closed(source: Source, plan: Mapping[str, Any]) -> dict[str, float]:
    """Measure streams that are kept busy."""
    return await Closed(source, plan).run()


SCENES: dict[str, Callable[[Source, Mapping[str, Any]], Awaitable[Any]]] = {
    "closed": closed,
    "cancel": cancel,
    "long": long,
    "chat": chat,
}


async def main(scene: str, kind: str, address: str, plan: Mapping[str, Any]) -> Any:
    """Do one scene."""
    async with SOURCES[kind](address) as source:
        return await SCENES[scene](source, plan)


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[4]).read_text(encoding="utf-8"))
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], given))))
