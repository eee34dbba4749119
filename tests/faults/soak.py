"""A corpus is embedded while processes are killed under it; every vector must arrive and equal an undisturbed run's.

``python -m tests.faults.soak --texts 5000 --kills 10 [--broker]``
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from typing import NamedTuple

from mlx_mesh import Mesh
from tests.live import BIN, LiveMesh, live_mesh, until

MODULES = ("os", "asyncio", "subprocess", "argparse", "json", "logging", "threading", "collections", "http")
PATIENCE_S = 1800.0
VICTIM_S = 90.0
"""Until there is somebody to kill: those that were killed have to be back on machines that are small and noisy."""

TOLERANCE = 1e-5
"""Between a text embedded in one batch and in another; the sums are the same, their order is not."""


class Outcome(NamedTuple):
    texts: int
    seconds: float
    kills: int
    largest_difference: float


def corpus(size: int) -> list[str]:
    """Return so many different texts: paragraphs of the standard library's documentation, numbered when they repeat."""
    found: dict[str, None] = {}
    for name in MODULES:
        for _, member in inspect.getmembers(import_module(name)):
            for paragraph in (inspect.getdoc(member) or "").split("\n\n"):
                if len(paragraph) > 20:
                    found[" ".join(paragraph.split())[:400]] = None
    texts = list(found)
    return [f"{texts[i % len(texts)]} {i // len(texts) or ''}".strip() for i in range(size)]


def supervisor(mesh: LiveMesh, *args: str) -> None:
    subprocess.run([BIN / "mlx-mesh", *args], env=mesh.env, check=True, stdout=subprocess.DEVNULL, timeout=120)


class Killer(threading.Thread):
    """Kills a random worker, or the broker, again and again; each life once."""

    def __init__(self, mesh: LiveMesh, kills: int, broker: bool, pause_s: tuple[float, float]) -> None:
        super().__init__(daemon=True)
        self._find = broker_pids if broker else worker_pids
        self._mesh, self._kills, self._pause_s = mesh, kills, pause_s
        self.killed: set[int] = set()

    def run(self) -> None:
        chance = random.Random(7)
        while len(self.killed) < self._kills:
            time.sleep(chance.uniform(*self._pause_s))
            pids = until(lambda: self._find(self._mesh) - self.killed, "a process to kill", VICTIM_S)
            pid = chance.choice(sorted(pids))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.killed.add(pid)


def worker_pids(mesh: LiveMesh) -> set[int]:
    with Mesh(mesh.endpoint) as client:
        return {worker["pid"] for worker in client.status(timeout=VICTIM_S)["workers"] if worker["state"] == "ready"}


def broker_pids(mesh: LiveMesh) -> set[int]:
    holder = (mesh.dir / "broker.lock").read_text()
    return {json.loads(holder)["pid"]} if holder.endswith("}") else set()


def soak(mesh: LiveMesh, texts: list[str], kills: int, *, broker: bool, pause_s: tuple[float, float]) -> Outcome:
    """Embed the texts twice, the second time under fire, and compare."""
    with Mesh(mesh.endpoint) as client:
        client.ready(["embed"], timeout=60)
        calm = client.embed(texts, lane="bulk", timeout=PATIENCE_S, cache=False)
        killer = Killer(mesh, kills, broker, pause_s)
        began = time.monotonic()
        killer.start()
        rounds = []
        while killer.is_alive() or not rounds:
            rounds.append(client.embed(texts, lane="bulk", timeout=PATIENCE_S, cache=False))
        seconds = time.monotonic() - began
    difference = max(
        abs(a - b) for run in rounds for one, two in zip(calm, run, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert len(killer.killed) == kills
    return Outcome(len(texts) * len(rounds), seconds, kills, difference)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--broker", action="store_true", help="kill the broker instead of workers")
    parser.add_argument("--pause", type=float, nargs=2, default=(1.0, 5.0), metavar=("FROM", "TO"))
    args = parser.parse_args()
    with live_mesh() as mesh:
        supervisor(mesh, "up", "--detach")
        try:
            outcome = soak(mesh, corpus(args.texts), args.kills, broker=args.broker, pause_s=tuple(args.pause))
        finally:
            until(lambda: supervisor(mesh, "down") is None, "the mesh to stop")
    print(outcome)
    return 0 if outcome.largest_difference < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
