"""Callers that go on throughout, and an engine whose workers say when and where they were given a job."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from mlx_mesh import AsyncMesh, MeshError
from tests.live import LiveMesh

TOP = Path(__file__).parents[2]
PAUSE_S = 0.02
"""Of a caller between two calls: all together keep the workers busy and not saturated."""

WITNESS = """
import os, re, time
from pathlib import Path
from mlx_mesh_worker.engine import BatchEngine

class Witness(BatchEngine):
    ops = ("witness",)
    slots = 8

    def admit(self, job):
        super().admit(job)
        self._waiting[job] = time.monotonic(), job.value()

    def run(self, batch):
        time.sleep(max((seconds for _, seconds in batch), default=0.0))
        return [[os.getpid(), at] for at, _ in batch]

def once(name):
    try:
        (Path(__file__).parent / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

class Sticky(BatchEngine):
    ops = ("sticky",)

    def run(self, batch):
        if "stand still" in batch and once("stood"):
            time.sleep(600)
        if "hold the interpreter" in batch and once("held"):
            re.match("(a+)+b", "a" * 60)
        return [os.getpid() for _ in batch]

class Moody(BatchEngine):
    ops = ("moody",)

    def load(self):
        if (Path(__file__).parent / "broken").exists():
            raise ValueError("the weights are upside down")

    def run(self, batch):
        return batch
"""


class Call(NamedTuple):
    """One call: when it began, how long it took, who was given it last and when, and how it failed, if it did."""

    began: float
    seconds: float
    pid: int
    admitted: float
    failure: str


def changed_conf(mesh: LiveMesh, *changes: tuple[str, str]) -> Path:
    """Write the conf of the checkout with some things changed."""
    text = (TOP / "supervisord.conf").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = mesh.dir / "changed.conf"
    path.write_text(text)
    return path


def added_program(name: str, engine: str, *options: str, workers: int = 0) -> tuple[str, str]:
    """Return the change of a conf that adds one worker, or so many with numbers, restarted as its own ones are."""
    each = f"{name}-%(process_num)d" if workers else name
    lines = (
        f"[program:{name}]",
        f"command = mlx-mesh-worker --engine {engine} --name {each}",
        *((f"process_name = {each}", f"numprocs = {workers}") if workers else ()),
        "priority = 200",
        "autorestart = unexpected",
        "exitcodes = 2,78",
        "stopwaitsecs = 40",
        "redirect_stderr = true",
        f"stdout_logfile = {each}.log",
        *options,
    )
    group = "[group:workers]"
    return group, "\n".join((*lines, "", group))


Ask = Callable[[AsyncMesh], Awaitable[tuple[int, float]]]
"""Makes one call; returns who was given it and when, or noughts if that does not matter."""


def witness(seconds: float, within_s: float) -> Ask:
    """Return what calls ``witness`` for a job that takes so long."""

    async def ask(mesh: AsyncMesh) -> tuple[int, float]:
        pid, at = await mesh.call("witness", seconds, timeout=within_s)
        return pid, at

    return ask


class Callers:
    """Calls an op, ``witness`` if none is named, from a thread until it is left; what came of it is in ``calls``."""

    def __init__(
        self,
        mesh: LiveMesh,
        callers: int = 8,
        seconds: float = 0.05,
        timeout: float = 30.0,
        *,
        op: str = "witness",
        ask: Ask | None = None,
    ) -> None:
        self._endpoint = mesh.endpoint
        self._callers, self._timeout, self._op = callers, timeout, op
        self._ask = ask or witness(seconds, timeout)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._defect: Exception | None = None
        self.calls: list[Call] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(self._timeout + 10)
        if self._defect is not None and error is None:
            raise self._defect

    @property
    def failed(self) -> Counter[str]:
        return Counter(call.failure for call in self.calls if call.failure)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001  an answer that is wrong: it is raised where the test stands
            self._defect = error

    async def _run(self) -> None:
        async with AsyncMesh(self._endpoint) as mesh:
            await mesh.ready([self._op], timeout=60)
            await asyncio.gather(*(self._call(mesh) for _ in range(self._callers)))

    async def _call(self, mesh: AsyncMesh) -> None:
        while not self._over.is_set():
            began, pid, at, failure = time.monotonic(), 0, 0.0, ""
            try:
                pid, at = await self._ask(mesh)
            except MeshError as error:
                failure = f"{error.code}: {error.message}"
            self.calls.append(Call(began, time.monotonic() - began, pid, at, failure))
            await asyncio.sleep(PAUSE_S)
