"""The engine of a worker in a plain loop, without a mesh: what the mesh is compared with.

As a program it measures itself: for every line ``SECONDS`` on standard input it prints a line of JSON. The engine gets
the same requests as through the mesh, and as many at a time as a worker holds.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.embed.tally import Tally
from benchmarks.embed.texts import requests
from mlx_mesh_wire import Lane, limits, messages, pack_body
from mlx_mesh_worker.engine import Result
from mlx_mesh_worker.engines.embed import EmbedEngine
from mlx_mesh_worker.job import Job

DEADLINE_MS = 3_600_000
WARM_S = 1.0
PREFETCH = 1
"""A worker is given as many jobs as its engine has slots, and one more."""


class LoopEngine:
    """The embed engine with nothing around it."""

    def __init__(self) -> None:
        self.engine = EmbedEngine()
        self.engine.mark = lambda _: None
        self.engine.load()
        self.engine.warm()
        self.held = 0
        self._ids = itertools.count(1)

    def admit(self, texts: Sequence[str]) -> Job:
        """Give the engine a request."""
        number = next(self._ids)
        session = bytes(limits.SESSION_BYTES)
        message = messages.Job(number, 1, session, number, "embed", "", Lane.BULK, DEADLINE_MS, 0, 0, b"", "")
        job = Job(message, [bytes(frame) for frame in pack_body({"texts": list(texts)})], 0.0)
        self.engine.admit(job)
        self.held += 1
        return job

    def step(self) -> list[Result]:
        """Compute one batch; return what it completed.

        Raises:
            RuntimeError: the engine could not compute it.
        """
        results = []
        for output in self.engine.step():
            if not isinstance(output, Result):
                raise RuntimeError(f"the engine gave {output}")
            self.held -= 1
            results.append(output)
        return results

    def answer_all(self, batch: Sequence[Sequence[str]]) -> list[Any]:
        """Return the value of each request, in order."""
        jobs = [self.admit(texts) for texts in batch]
        values: dict[Job, Any] = {}
        while self.held:
            values.update((result.job, result.value) for result in self.step())
        return [values[job] for job in jobs]


def measure(loop: LoopEngine, feed: Iterator[list[str]], seconds: float) -> float:
    """Return texts/s with the engine kept as full as a worker is."""
    tally = Tally(WARM_S, seconds)
    while not tally.over:
        while loop.held < loop.engine.slots + PREFETCH:
            loop.admit(next(feed))
        for result in loop.step():
            tally.add(len(result.value["tokens"]))
    while loop.held:
        loop.step()
    return tally.texts_per_s()


def main() -> None:
    """Answer each line with a measurement."""
    loop = LoopEngine()
    feed = itertools.cycle(requests())
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps({"texts_per_s": measure(loop, feed, float(line))}), flush=True)


if __name__ == "__main__":
    main()
