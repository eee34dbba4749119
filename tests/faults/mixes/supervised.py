"""The mesh of a trial under a real supervisord, with the guard."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from mlx_mesh_wire.supervisor import Supervisor, SupervisorError
from tests.faults.callers import added_program, changed_conf
from tests.faults.mixes.engine import TRIAL
from tests.faults.mixes.stage import Stage
from tests.live import BIN, until

WORKERS: Mapping[str, str] = {"embed-0": "mine:Trial", "embed-1": "mine:Trial", "echo-0": "echo", "echo-1": "echo"}

PROGRAMS = (
    ("--engine embed", "--engine mine:Trial"),
    added_program("echo", "echo", workers=2),
    ("programs = embed", "programs = embed,echo"),
)

UP_S = 1.5
"""A process that ends sooner than ``startsecs`` after its start is not started again for long."""


class Supervised(Stage):
    """A stage whose processes supervisord starts again."""

    def start(self) -> None:
        """Start everything and return once all workers are ready."""
        self._orphans: list[psutil.Process] = []
        self.mesh.engine(TRIAL)
        self.mesh.env |= {"MLX_MESH_GUARD_RETRY_S": "1", "MLX_MESH_GUARD_RETRY_MAX_S": "2"}
        self._supervisor = Supervisor(self.mesh.dir, timeout=10)
        self._conf = changed_conf(self.mesh, *PROGRAMS)
        self._mesh("up", "--detach", "--conf", str(self._conf))
        until(lambda: len(self.ready()) == len(self.workers), "all workers", 90)

    def close(self) -> None:
        """Stop everything, what lost its supervisord too."""
        super().close()
        try:
            self._mesh("down")
        finally:
            self.bury()

    def _mesh(self, *words: str) -> None:
        with (self.mesh.dir / "commands.log").open("ab") as log:
            subprocess.run(
                [BIN / "mlx-mesh", *words], env=self.mesh.env, check=True, stdout=log, stderr=log, timeout=120
            )

    def kill_guard(self) -> None:
        """SIGKILL the guard, once it runs for long enough to be started again."""
        self._kill("guard", "guard kills")

    def kill_supervisord(self) -> None:
        """SIGKILL supervisord; what it started lives on without it."""
        pid = int((self.mesh.dir / "supervisord.pid").read_text())
        with contextlib.suppress(psutil.NoSuchProcess):
            above = psutil.Process(pid)
            self._orphans += above.children()
            above.kill()
            self.faults["supervisord kills"] += 1
            until(lambda: not above.is_running() or above.status() == psutil.STATUS_ZOMBIE, "its end")

    def start_supervisord(self) -> None:
        """Start it again, as an operator does who finds it gone."""
        subprocess.run(
            [BIN / "supervisord", "-c", self._conf],
            env=self.mesh.env,
            check=True,
            timeout=60,
            stderr=subprocess.DEVNULL,
        )

    def bury(self) -> None:
        """SIGKILL what an earlier supervisord left, the broker last."""
        broker = self._pid("broker")
        for orphan in sorted(self._orphans, key=lambda each: each.pid == broker):
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
                self.faults["broker kills" if orphan.pid == broker else "worker kills"] += 1
        self._orphans.clear()

    def freeze(self, name: str, seconds: float) -> None:
        """Not for processes of which supervisord is the parent; the guard would replace them."""
        raise NotImplementedError

    def _kill(self, name: str, counted: str) -> None:
        pid = self._pid(name)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.faults[counted] += 1

    def _pid(self, name: str) -> int:
        if name == "broker":
            holder = (self.mesh.dir / "broker.lock").read_text()
            return int(json.loads(holder)["pid"]) if holder.endswith("}") else 0
        found: Callable[[dict[str, Any]], bool] = lambda p: (  # noqa: E731
            p["name"] == name and p["statename"] == "RUNNING" and p["now"] - p["start"] >= UP_S
        )
        try:
            return next((process["pid"] for process in self._supervisor.look() if found(process)), 0)
        except SupervisorError:
            return 0


def guard_kills(stage: Stage) -> None:
    """SIGKILL the guard as often as it comes back, and now and then a worker."""
    assert isinstance(stage, Supervised)
    while stage.pause(0.5, 1.0):
        stage.kill_guard()
        if stage.chance.random() < 0.3:
            stage.kill_worker()


def supervisord_kills(stage: Stage) -> None:
    """SIGKILL supervisord, start it again beside what it left, then SIGKILL that, so that the new ones take over."""
    assert isinstance(stage, Supervised)
    while stage.pause(0.5, 1.5):
        before = set(_pids(stage))
        stage.kill_supervisord()
        stage.pause(0.2, 1.0)
        stage.start_supervisord()
        until(lambda before=before: len(set(_pids(stage)) - before) == len(stage.workers), "the new workers", 60)
        stage.bury()
        until(lambda before=before: len(set(_pids(stage)) - before) == len(stage.workers), "the new broker", 60)


def _pids(stage: Stage) -> list[int]:
    return [worker["pid"] for worker in stage.status().get("workers", ()) if worker["state"] == "ready"]
