"""The mesh of a trial: real processes that are started again when they end, and what can be done to them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_mesh import Mesh, MeshError
from tests.faults.mixes.engine import TRIAL
from tests.faults.proxy import Proxy
from tests.live import BIN, LiveMesh, Process, until

WORKERS: Mapping[str, str] = {"trial-0": "mine:Trial", "trial-1": "mine:Trial", "echo-0": "echo", "echo-1": "echo"}
LOOK_S = 0.02
REJOIN_S = "15"
"""On a busy machine a process may take longer to start than the 5 s for which work waits otherwise."""

OVERTIME_S = 20.0
"""On a busy machine it may take so long until there is a first worker to kill."""

NOT_POISON = {"MLX_MESH_BROKER_DEATHS_MAX": "10"}
"""Where we kill, a request that two deaths hit is no poison, which the mesh cannot know."""


class Stage:
    """A broker and workers, each started again within ``LOOK_S`` of its end, as supervisord does.

    Attributes:
        mesh: the run directory and its environment.
        workers: names of the workers, and their engines. Those of one kind have the same name up to ``-``.
        chance: all that is random.
        faults: what was done, counted.
        near: the proxy that the clients connect to, if the mix is one of the network.
        far: the proxy between workers and broker.
    """

    def __init__(
        self,
        mesh: LiveMesh,
        seed: int,
        *,
        workers: Mapping[str, str] = WORKERS,
        proxied: bool = False,
        targets: tuple[str, str] | None = None,
        limits: str = "",
        log: str = "",
    ) -> None:
        mesh.env.setdefault("MLX_MESH_BROKER_REJOIN_S", REJOIN_S)
        self.mesh = mesh
        self.workers = workers
        self.chance = random.Random(seed)
        self.faults: Counter[str] = Counter()
        near, far = targets or (f"ipc://{mesh.dir}/frontend.sock", f"ipc://{mesh.dir}/backend.sock")
        self.near = Proxy(near, seed) if proxied else None
        self.far = Proxy(far, seed + 1) if proxied else None
        self._limits, self._log = limits, log
        self._processes: dict[str, Process] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._until, self._before = 0.0, 0
        self._frozen: list[tuple[float, Process]] = []
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def endpoint(self) -> str:
        """What clients connect to."""
        return self.near.endpoint if self.near is not None else self.mesh.endpoint

    def start(self) -> None:
        """Start everything and return once all workers are ready."""
        self.mesh.engine(TRIAL)
        self.mesh.env.setdefault("MLX_MESH_BROKER_METRICS_PORT", "off")
        self._processes = {name: self._begin(name) for name in ("broker", *self.workers)}
        self._keeper.start()
        until(lambda: len(self.ready()) == len(self.workers), "all workers", 90)

    def close(self) -> None:
        """Stop keeping processes; whoever made the run directory ends them."""
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join(10)
        for proxy in (self.near, self.far):
            if proxy is not None:
                proxy.close()

    def client_env(self, who: str) -> dict[str, str]:
        """Return the environment of a client."""
        return self.mesh.env

    def act(self, seconds: float) -> None:
        """Begin the time in which ``pause`` returns True."""
        self._until = time.monotonic() + seconds
        self._before = self.faults.total()

    def left(self) -> float:
        """Return how many seconds are left."""
        return self._until - time.monotonic()

    def pause(self, low_s: float, high_s: float) -> bool:
        """Sleep for a random time; False if the trial is over then, but not for ``OVERTIME_S`` if nothing was done."""
        time.sleep(max(0.0, min(self.chance.uniform(low_s, high_s), self.left())))
        if self.left() > 0:
            return True
        time.sleep(LOOK_S)
        return self.faults.total() == self._before and self.left() > -OVERTIME_S

    def heal(self) -> None:
        """End every fault that lasts."""
        with self._lock:
            for process in self._processes.values():
                process.send_signal(signal.SIGCONT)
            self._frozen.clear()
        for proxy in (self.near, self.far):
            if proxy is not None:
                proxy.clear()

    def status(self) -> dict[str, Any]:
        """Return the broker's status; empty if none answers."""
        try:
            with Mesh(self.mesh.endpoint) as client:
                return client.status(timeout=2.0)
        except MeshError:
            return {}

    def ready(self) -> list[str]:
        """Return the names of the workers that are ready."""
        return sorted(w["name"] for w in self.status().get("workers", ()) if w["state"] == "ready")

    def at_rest(self) -> bool:
        """Whether all workers are ready and nothing is outstanding."""
        status = self.status()
        ready = [
            worker for worker in status.get("workers", ()) if worker["state"] == "ready" and not worker["in_flight"]
        ]
        return len(ready) >= len(self.workers) and not status["counters"]["outstanding"]

    def kill_worker(self) -> None:
        """SIGKILL a worker whose op another serves."""
        ready = self.ready()
        kinds = Counter(name.partition("-")[0] for name in ready)
        spare = [name for name in ready if kinds[name.partition("-")[0]] > 1]
        if spare:
            self._kill(self.chance.choice(spare), "worker kills")

    def kill_broker(self, *, blindly: bool = False) -> None:
        """SIGKILL the broker; only one that serves, unless blindly: on a busy machine it never came to that else."""
        if blindly or self.ready():
            self._kill("broker", "broker kills")

    def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP a process, and SIGCONT it after some seconds."""
        with self._lock:
            process = self._processes[name]
            if process.poll() is None and process not in [each for _, each in self._frozen]:
                process.send_signal(signal.SIGSTOP)
                self._frozen.append((time.monotonic() + seconds, process))
                self.faults["broker stops" if name == "broker" else "worker stops"] += 1
                self.faults["stops"] += 1

    def dump(self) -> None:
        """Have every worker that is ready print its stacks into its log, and keep the broker's status."""
        status = self.status()
        (self.mesh.dir / "hang-status.json").write_text(json.dumps(status, indent=1))
        for worker in status.get("workers", ()):
            if worker["state"] != "loading":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGUSR1)

    def _kill(self, name: str, counted: str) -> None:
        with self._lock:
            process = self._processes[name]
            if process.poll() is None:
                process.kill()
                self.faults[counted] += 1

    def _begin(self, name: str) -> Process:
        if name == "broker":
            return self._launch(["mlx-mesh-broker"], name, self._limits)
        to = ("--broker", self.far.endpoint) if self.far is not None else ()
        return self._launch(["mlx-mesh-worker", "--engine", self.workers[name], "--name", name, *to], name)

    def _launch(self, command: Sequence[str], name: str, limits: str = "") -> Process:
        words = shlex.join([str(BIN / command[0]), *command[1:]])
        script = f"{limits and limits + '; '}exec {words}" + (f" >>{self._log} 2>&1" if self._log else "")
        with (self.mesh.dir / f"{name}.log").open("ab") as file:
            process = subprocess.Popen(
                ["sh", "-c", script], env=self.mesh.env, stdout=file, stderr=file, cwd=self.mesh.dir
            )
        self.mesh.processes.append(process)
        return process

    def _keep(self) -> None:
        while not self._over.wait(LOOK_S):
            now = time.monotonic()
            with self._lock:
                for due, process in [each for each in self._frozen if each[0] <= now or each[1].poll() is not None]:
                    process.send_signal(signal.SIGCONT)
                    self._frozen.remove((due, process))
                for name, process in self._processes.items():
                    if process.poll() is not None:
                        self.faults[f"{'broker' if name == 'broker' else 'worker'} ends"] += 1
                        self._processes[name] = self._begin(name)


Trouble = Callable[[Stage], None]
"""Hurts a stage until its time is up."""


def ran_twice(folder: Path) -> list[str]:
    """Return what was to be computed at most once and was begun twice."""
    with contextlib.suppress(FileNotFoundError):
        counts = Counter((folder / "ran").read_text().split())
        return sorted(nonce for nonce, count in counts.items() if count > 1)
    return []
