"""Callers that go on throughout, and an engine whose workers say when and where they were given a job."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
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


class Callers:
    """Calls ``witness`` from a thread until it is left; what came of it is in ``calls``."""

    def __init__(self, mesh: LiveMesh, callers: int = 8, seconds: float = 0.05, timeout: float = 30.0) -> None:
        self._endpoint = mesh.endpoint
        self._callers, self._seconds, self._timeout = callers, seconds, timeout
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.calls: list[Call] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(self._timeout + 10)

    @property
    def failed(self) -> Counter[str]:
        return Counter(call.failure for call in self.calls if call.failure)

    async def _run(self) -> None:
        async with AsyncMesh(self._endpoint) as mesh:
            await mesh.ready(["witness"], timeout=60)
            await asyncio.gather(*(self._call(mesh) for _ in range(self._callers)))

    async def _call(self, mesh: AsyncMesh) -> None:
        while not self._over.is_set():
            began, pid, at, failure = time.monotonic(), 0, 0.0, ""
            try:
                pid, at = await mesh.call("witness", self._seconds, timeout=self._timeout)
            except MeshError as error:
                failure = f"{error.code}: {error.message}"
            self.calls.append(Call(began, time.monotonic() - began, pid, at, failure))
            await asyncio.sleep(PAUSE_S)
