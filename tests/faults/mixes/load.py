"""A client process: asks, checks every answer, and says at its end what came of it, as one line of JSON.

``python -m tests.faults.mixes.load '{"endpoint": ..., "client": "async", "who": "a0", "seed": 1, "seconds": 5}'``
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mlx_mesh import AsyncMesh, DeadlineExceededError, Mesh, MeshError
from tests.faults.mixes.questions import Question, flaw, questions
from tests.faults.mixes.tally import Tally

GRACE_S = 8.0
"""Beyond its deadline a call may end so much later, on machines that are small, shared and noisy."""

PAUSE_S = 0.02
"""Between two calls of a caller: all together keep the mesh busy and the machine not saturated."""

CALLERS = {"async": 10, "sync": 4, "visit": 2, "poison": 1}
PAUSES_S = {"visit": 0.2, "poison": 2.5}

KINDS = {"visit": ("echo", "digest", "tell"), "poison": ("poison",)}
"""What they ask, if not everything."""

OPS = ("digest", "once", "tell", "echo")


class Task(NamedTuple):
    """What this process is to do."""

    endpoint: str
    client: str
    who: str
    seed: int
    seconds: float
    marks: str
    visit_s: float = 30.0


class Client:
    """Counts; what is asked is the same for all sorts of clients."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.tally = Tally()
        self.until = float("inf")
        self.open: dict[int, tuple[Question, float]] = {}
        self._lock = threading.Lock()

    def questions(self, number: int) -> Iterator[Question]:
        """Draw what one caller asks until the time is up."""
        task = self.task
        kinds = KINDS.get(task.client, ())
        drawn = questions(f"{task.who}.{number}", random.Random(task.seed * 1000 + number), kinds)
        while time.monotonic() < self.until:
            question = next(drawn)
            yield question._replace(kind="visit", timeout_s=task.visit_s) if task.client == "visit" else question

    def start(self) -> None:
        """Say that the mesh is known, and let the time begin."""
        self.until = time.monotonic() + self.task.seconds
        (Path(self.task.marks) / f"started-{self.task.who}").touch()

    def began(self, caller: int, question: Question) -> float:
        now = time.monotonic()
        with self._lock:
            self.tally.calls[question.kind] += 1
            self.open[caller] = question, now
        return now

    def ended(self, caller: int, question: Question, began: float, chunks: Sequence[Any], outcome: Any) -> None:
        """Judge an answer, or the error that came in its place."""
        took = time.monotonic() - began
        with self._lock:
            tally = self.tally
            del self.open[caller]
            if took > tally.longest_s:
                tally.longest_s = took
                tally.examples["longest"] = f"{question.kind} {question.value[0]!s:.40}"
            if took > question.timeout_s + GRACE_S:
                self._hung(question, took)
            if isinstance(outcome, MeshError):
                words = f"{question.kind} {outcome.code}"
                tally.errors[words] += 1
                tally.examples.setdefault(words, f"{question.value[0]!s:.40} after {took:.1f} s: {outcome.message}")
                outcome, fault = None, flaw(question._replace(keep=len(chunks)), chunks, None)
            elif question.kind == "poison":
                fault = "wrong: poison was answered"
            else:
                fault = flaw(question, chunks, outcome)
            if fault:
                setattr(tally, fault.partition(":")[0], getattr(tally, fault.partition(":")[0]) + 1)
                tally.say(f"{question.kind} {question.value[0]!s:.40}: {fault}")

    def overdue(self) -> list[Question]:
        """Return the calls that should have ended long ago."""
        now = time.monotonic()
        with self._lock:
            return [each for each, began in self.open.values() if now > began + each.timeout_s + 2 * GRACE_S]

    def _hung(self, question: Question, took: float) -> None:
        self.tally.hung += 1
        text = f"{self.task.who} hung: {question.kind} {question.value[0]!s:.40} took {took:.1f} s"
        self.tally.say(text)
        mark(self.task, text)


def mark(task: Task, text: str) -> None:
    """Leave a note for whoever runs the trial: it has all other processes say what they do."""
    path = Path(task.marks) / f"hang-{task.who}-{time.monotonic_ns()}.txt"
    with path.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        faulthandler.dump_traceback(file)


async def ask_async(mesh: AsyncMesh, question: Question, chunks: list[Any]) -> Any:
    """Make one call, and stop waiting for it long after its deadline."""
    options = {"timeout": question.timeout_s, "at_most_once": question.op == "once"}
    async with asyncio.timeout(question.timeout_s + 2 * GRACE_S):
        if question.chunks is None:
            return await mesh.call(question.op, question.value, **options)
        async with mesh.stream(question.op, question.value, **options) as stream:
            if question.keep == 0:
                return None
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == question.keep:
                    return None
            return stream.result


async def call_async(client: Client, mesh: AsyncMesh, number: int) -> None:
    for question in client.questions(number):
        chunks: list[Any] = []
        began = client.began(number, question)
        try:
            outcome = await ask_async(mesh, question, chunks)
        except MeshError as error:
            outcome = error
        except TimeoutError:
            outcome = DeadlineExceededError("the caller gave up: the client did not end the call")
        client.ended(number, question, began, chunks, outcome)
        await asyncio.sleep(PAUSE_S)


async def main_async(client: Client) -> None:
    async with AsyncMesh(client.task.endpoint) as mesh:
        await mesh.ready(OPS, timeout=60)
        client.start()
        await asyncio.gather(*(call_async(client, mesh, n) for n in range(CALLERS["async"])))


def ask(mesh: Mesh, question: Question, chunks: list[Any]) -> Any:
    options = {"timeout": question.timeout_s, "at_most_once": question.op == "once"}
    if question.chunks is None:
        return mesh.call(question.op, question.value, **options)
    with mesh.stream(question.op, question.value, **options) as stream:
        for chunk in stream if question.keep else ():
            chunks.append(chunk)
            if len(chunks) == question.keep:
                return None
        return stream.result


def call_sync(client: Client, mesh: Mesh | None, number: int) -> None:
    """Call until the time is up; without a mesh, by a new client for each call."""
    for question in client.questions(number):
        chunks: list[Any] = []
        began = client.began(number, question)
        try:
            if mesh is not None:
                outcome = ask(mesh, question, chunks)
            else:
                with Mesh(client.task.endpoint) as visitor:
                    outcome = ask(visitor, question, chunks)
        except MeshError as error:
            outcome = error
        client.ended(number, question, began, chunks, outcome)
        time.sleep(PAUSES_S.get(client.task.client, PAUSE_S))


def main_sync(client: Client) -> None:
    mesh = Mesh(client.task.endpoint) if client.task.client != "visit" else None
    if mesh is not None:
        mesh.ready(OPS, timeout=60)
    client.start()
    threads = [
        threading.Thread(target=call_sync, args=(client, mesh, n), daemon=True)
        for n in range(CALLERS[client.task.client])
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if late := client.overdue():
            client.tally.hung += len(late)
            mark(client.task, f"{client.task.who} hung: {late[0].kind} never ended")
            break
        threads[0].join(0.2)
        time.sleep(0.02)
    if mesh is not None and not client.open:
        mesh.close()


def main() -> int:
    faulthandler.enable()
    task = Task(**json.loads(sys.argv[1]))
    client = Client(task)
    if task.client == "async":
        asyncio.run(main_async(client))
    else:
        main_sync(client)
    print(json.dumps(client.tally.as_map()), flush=True)
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(0)  # A thread that hangs is told of, and is not waited for.


if __name__ == "__main__":
    sys.exit(main())
