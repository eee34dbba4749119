"""The contestants of the embed benchmark: started once, asked again in every round."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from benchmarks.figures import latency_summary
from benchmarks.processes import Conversation, Group, until
from benchmarks.rpc.peers import mosec_server
from mlx_mesh.cli.demo import COLD_CALL

LOAD = "benchmarks.embed.load"
REQUESTS_PER_WORKER = 16
"""In flight: what a worker holds, what waits for it in the broker, and some to spare."""

COLD_CALLS = 3


class Contest:
    """A mesh with one worker, one with two, as many loops, and mosec with two workers."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._meshes = {number: self._mesh(number) for number in (1, 2)}
        self._group = self._stack.enter_context(Group())
        self._loops = [self._group.talk("benchmarks.embed.loop") for _ in range(2)]
        for loop in self._loops:
            loop.hear()
        self._mosec = ""
        if importlib.util.find_spec("mosec") is not None:
            port, _ = mosec_server(self._group, "benchmarks.embed.mosec_embed", "mosec")
            self._mosec = str(port)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def contestants(self) -> dict[str, Callable[[float], float]]:
        """Return who is measured, each as a function from seconds to texts/s."""
        found: dict[str, Callable[[float], float]] = {
            "mesh, 1 worker": lambda seconds: self._through_mesh(1, seconds),
            "loop, 1 process": lambda seconds: self._in_loops(1, seconds),
            "mesh, 2 workers": lambda seconds: self._through_mesh(2, seconds),
            "loop, 2 processes": lambda seconds: self._in_loops(2, seconds),
        }
        if self._mosec:
            found["mosec, 2 workers"] = self._through_mosec
        return found

    def single(self, seconds: float) -> dict[str, float]:
        """Return latencies of a warm call, in milliseconds, on an idle mesh."""
        group = self._meshes[2]
        found: dict[str, float] = group.ask(LOAD, "single", group.endpoint, str(seconds))
        return found

    def spawned(self) -> dict[str, float]:
        """Return latencies, in milliseconds, of a process that is spawned for every call."""
        took = []
        for number in range(COLD_CALLS):
            began = time.perf_counter()
            command = [sys.executable, "-c", COLD_CALL, f"sentence number {number} for a cold process"]
            subprocess.run(command, check=True, capture_output=True, env=self._group.env)
            took.append((time.perf_counter() - began) * 1e3)
        return latency_summary(took)

    def interactive_beside_bulk(self, seconds: float) -> dict[str, float]:
        """Return latencies, in milliseconds, of single texts while a bulk corpus keeps both workers full."""
        group = self._meshes[2]
        flood = group.talk(LOAD, "corpus", group.endpoint, str(seconds + 3.0))
        before = self._bulk_served(group)
        until(lambda: self._bulk_served(group) > before, "the bulk corpus")
        found: dict[str, float] = group.ask(LOAD, "interactive", group.endpoint, str(seconds))
        found["bulk_texts_per_s"] = flood.hear()["texts_per_s"]
        return found

    @staticmethod
    def _bulk_served(group: Group) -> int:
        from mlx_mesh import Mesh

        with Mesh(group.endpoint) as mesh:
            return sum(worker["served"] for worker in mesh.status()["workers"])

    def _mesh(self, workers: int) -> Group:
        group = self._stack.enter_context(Group())
        group.mesh("embed", workers)
        return group

    def _through_mesh(self, workers: int, seconds: float) -> float:
        group = self._meshes[workers]
        args = ("bulk", group.endpoint, str(seconds), str(workers * REQUESTS_PER_WORKER))
        return float(group.ask(LOAD, *args)["texts_per_s"])

    def _in_loops(self, processes: int, seconds: float) -> float:
        loops: list[Conversation] = self._loops[:processes]
        for loop in loops:
            loop.say(str(seconds))
        return sum(float(loop.hear()["texts_per_s"]) for loop in loops)

    def _through_mosec(self, seconds: float) -> float:
        args = ("mosec", self._mosec, str(seconds), str(2 * REQUESTS_PER_WORKER))
        return float(self._group.ask(LOAD, *args)["texts_per_s"])
