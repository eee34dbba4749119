"""The contestants of the generate benchmark, each started once and asked again in every round.

The mesh and the server note each step of the engine as it begins: a line in a file, microseconds beside the ten or more
milliseconds that a step takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from benchmarks.generate.prompts import Prompts
from benchmarks.generate.trace import VARIABLE, read, removals
from benchmarks.processes import BIN, PATIENCE_S, Group, Process, cpu_s, free_port, listens, until
from mlx_mesh import Mesh

LOAD = "benchmarks.generate.load"
TRACED = "benchmarks.generate.traced:TracedEngine"
REQUESTS = 400
"""Prompts of one measurement: more than anybody gets through."""

MESH, SERVER, BARE, ONE_PROCESS = "mesh", "mlx_lm.server", "BatchGenerator", "one process"


class Place:
    """A running system: how clients speak to it, and the processes that it is made of."""

    def __init__(self, kind: str, address: str, processes: Mapping[str, Process], trace: Path) -> None:
        self.kind = kind
        self.address = address
        self._processes = processes
        self._trace = trace

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each process so far."""
        return {name: cpu_s(process.pid) for name, process in self._processes.items()}

    def removals(self, left: list[float]) -> dict[str, list[float]]:
        """Return how the rows of clients that left were taken out, as the engine noted it."""
        found = removals(read(self._trace), left)
        return {"steps": [each.steps for each in found], "ms": [each.seconds * 1e3 for each in found]}


class Contest:
    """Groups of processes on one model.

    Args:
        folder: of the model.
        prompts: where everybody's prompts come from.
    """

    def __init__(self, folder: Path, prompts: Prompts) -> None:
        self._folder = folder
        self._prompts = prompts
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start everybody, and wait until each has generated something."""
        self._group = self._stack.enter_context(Group())
        self._bare = self._group.talk("benchmarks.generate.bare", str(self._folder))
        server = self._server()
        self.places = {MESH: self._mesh(), SERVER: server}
        self._bare.hear()
        until(lambda: listens(int(server.address)), SERVER)
        plan = {"streams": 1, "seconds": 0.1, "requests": self._prompts.requests(1, REQUESTS // 10)}
        for name in (*self.places, BARE):
            self.closed(name, plan)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def scene(self, name: str, place: Place, plan: Mapping[str, Any]) -> Any:
        """Have a client process do a scene."""
        return self._group.ask(LOAD, name, place.kind, place.address, str(self._plan(plan)))

    def closed(self, name: str, plan: Mapping[str, Any]) -> dict[str, float]:
        """Return figures of a closed loop, and the CPU seconds that each process used for it."""
        if name == BARE:
            alone: dict[str, float] = self._bare.ask(str(self._plan(plan)))
            return alone
        place = self.places[name]
        before = place.cpu()
        found: dict[str, float] = self.scene("closed", place, plan)
        return {**found, **{f"{name}_cpu_s": now - before[name] for name, now in place.cpu().items()}}

    def steps(self, plan: Mapping[str, Any]) -> dict[str, list[float]]:
        """Return the steps and milliseconds between a cancel and the removal of a row, in one process."""
        found: dict[str, list[float]] = self._group.ask(
            "benchmarks.generate.steps", str(self._folder), str(self._plan(plan))
        )
        return found

    def _plan(self, plan: Mapping[str, Any]) -> Path:
        path = self._group.dir / "plan.json"
        path.write_text(json.dumps(plan), encoding="utf-8")
        return path

    def _mesh(self) -> Place:
        group, trace = self._traced()
        broker = group.broker()
        command = ("--engine", TRACED, "--model", self._folder, "--name", "generate-0")
        worker = group.start(BIN / "mlx-mesh-worker", *command, log="generate-0")
        with Mesh(group.endpoint) as mesh:
            mesh.ready(["generate", "chat"], timeout=PATIENCE_S)
        return Place("mesh", group.endpoint, {"engine": worker, "broker": broker}, trace)

    def _server(self) -> Place:
        group, trace = self._traced()
        port = free_port()
        flags = ("--model", self._folder, "--port", str(port), "--log-level", "WARNING")
        server = group.python("benchmarks.generate.mlx_server", *flags, log="mlx_lm.server")
        return Place("server", str(port), {"engine": server}, trace)

    def _traced(self) -> tuple[Group, Path]:
        group = self._stack.enter_context(Group())
        trace = group.dir / "trace"
        group.env[VARIABLE] = str(trace)
        return group, trace
