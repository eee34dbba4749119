"""How many steps a cancelled text is still computed for, in one process: the runner, the engine, and nothing else.

``python -m benchmarks.generate.steps FOLDER PLAN`` prints JSON. Commands come from another thread at any time, as in a
worker.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.generate.scenes import ENDLESS
from benchmarks.generate.trace import REMOVED, Event, removals
from benchmarks.generate.traced import TracedEngine
from mlx_mesh_wire import Lane, limits, messages, pack_body
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.runner import Admit, Cancel, Piece, Runner

DEADLINE_MS = 3_600_000
WINDOW = 1024
PATIENCE_S = 60.0


class Bench:
    """A runner that turns on the thread that made it; commands may come from any other."""

    def __init__(self, folder: Path) -> None:
        self._engine = TracedEngine(str(folder))
        self._engine.mark = lambda _: None
        self._engine.load()
        self._engine.warm()
        self._runner = Runner(
            self._engine,
            time.monotonic,
            Record(lambda _: None, lambda: None),
            lambda text: print(text, file=sys.stderr),
        )
        self._ids = itertools.count(1)
        self.events: list[Event] = []
        self._seen: set[Job] = set()
        self._ended: set[Job] = set()
        self._engine.note = lambda kind: self.events.append((kind, time.monotonic()))

    def turn(self) -> None:
        """Do what is to be done."""
        outcomes = self._runner.turn()
        for outcome in outcomes:
            (self._seen if isinstance(outcome, Piece) else self._ended).add(outcome.job)
        if not outcomes:
            time.sleep(0.001)

    def admit(self, prompt: str) -> Job:
        """Have a text generated."""
        number = next(self._ids)
        session = bytes(limits.SESSION_BYTES)
        message = messages.Job(
            number, 1, session, number, "generate", "", Lane.STANDARD, DEADLINE_MS, 0, WINDOW, b"", ""
        )
        body = pack_body({"prompt": prompt, "max_tokens": ENDLESS})
        job = Job(message, [bytes(frame) for frame in body], time.monotonic())
        self._runner.commands.append(Admit(job))
        return job

    def all_run(self, jobs: list[Job]) -> None:
        """Wait until each has given a token."""
        _until(lambda: self._seen.issuperset(jobs))

    def cancel(self, job: Job) -> float | None:
        """Cancel a text and wait until its row is taken out; return when it was cancelled, None if it had ended."""
        before, at = self._removed(), time.monotonic()
        self._runner.commands.append(Cancel(job))
        _until(lambda: self._removed() > before or job in self._ended)
        return at if self._removed() > before else None

    def _removed(self) -> int:
        return sum(kind == REMOVED for kind, _ in self.events)


def leave(bench: Bench, plan: dict[str, Any]) -> dict[str, list[float]]:
    """Cancel one of some texts, again and again; return steps begun in between and milliseconds for each."""
    chance = random.Random(2)
    jobs = [bench.admit(prompt) for prompt in plan["prompts"][: plan["streams"]]]
    left = []
    for prompt in plan["prompts"][plan["streams"] :]:
        bench.all_run(jobs)
        time.sleep(chance.uniform(0.05, 0.25))
        index = chance.randrange(len(jobs))
        left.append(bench.cancel(jobs[index]))
        jobs[index] = bench.admit(prompt)
    found = removals(bench.events, [at for at in left if at is not None])
    return {"steps": [each.steps for each in found], "ms": [each.seconds * 1e3 for each in found]}


def main(folder: Path, plan: dict[str, Any]) -> dict[str, list[float]]:
    """Measure."""
    bench = Bench(folder)
    with ThreadPoolExecutor(1) as others:
        left = others.submit(leave, bench, plan)
        while not left.done():
            bench.turn()
        return left.result()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the engine does not go on")
        time.sleep(0.005)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))))
