"""Real processes of a mesh in a run directory of their own, for the tests that need them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent
LOG_LINES = 40
"""Of each log, when a test has failed."""

PATIENCE_S = 30.0
"""Generous: these machines are small, shared and noisy."""

WAITS_S = (0.3, 1.0, 4.0, 16.0)
"""Deadlines to try in turn where something has to come about before one passes: a fast machine waits for the first."""

PATIENT = ("--suspect-s", "60", "--lost-s", "60", "--lost-remote-s", "60")
"""Flags of a broker that judges nobody by their silence: a test that speaks for a worker may be held up for seconds."""


def until(condition: Callable[[], Any], what: str = "condition", seconds: float = PATIENCE_S) -> Any:
    """Return the first true result of a condition that is polled, once more when the time is up."""
    end, over = time.monotonic() + seconds, False
    while not over:
        over = time.monotonic() >= end
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody has, each another one."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


Process = subprocess.Popen[bytes]
Env = dict[str, str]


@contextmanager
def standing_still(process: Process) -> Iterator[None]:
    """Stop a process for the length of a block: it sees all that is done there at once, or nothing yet."""
    process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the process to stand still")
        yield
    finally:
        process.send_signal(signal.SIGCONT)


class LiveMesh:
    """Starts and stops programs by pid; their logs are files in the run directory."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="mesh", dir="/tmp"))
        self.env = {
            **os.environ,
            "MLX_MESH_RUN_DIR": str(self.dir),
            "MLX_MESH_KEYS_DIR": str(self.dir / "keys"),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(self.dir),
            "HF_HUB_OFFLINE": "1",
        }
        for name in ("MLX_MESH_ENDPOINT", "MLX_MESH_KEYS", "MLX_MESH_CONTROL", "MLX_MESH_CONTROL_KEYS"):
            self.env.pop(name, None)
        self.processes: list[Process] = []
        self.endpoint = f"ipc://{self.dir}/frontend.sock"

    def start(self, program: str, *args: str, log: str = "", env: dict[str, str] | None = None) -> Process:
        path = self.dir / f"{log or program}.log"
        with path.open("ab") as file:
            process = subprocess.Popen(
                [BIN / program, *args], env={**self.env, **(env or {})}, stderr=file, stdout=file, cwd=self.dir
            )
        self.processes.append(process)
        return process

    def broker(self, *args: str) -> Process:
        return self.start("mlx-mesh-broker", *args, log="broker")

    def worker(self, engine: str = "echo", name: str = "w", *args: str) -> Process:
        return self.start("mlx-mesh-worker", "--engine", engine, "--name", name, *args, log=name)

    def log(self, name: str) -> str:
        path = self.dir / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def show_logs(self) -> None:
        """Print the end of each log, so that a test that failed tells what its processes said."""
        for path in sorted(self.dir.rglob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
            print(f"--- {path.name}", *lines, sep="\n")

    def engine(self, text: str) -> None:
        """Write a module ``mine`` that workers can load engines from."""
        (self.dir / "mine.py").write_text(text, encoding="utf-8")

    def stop(self, processes: Sequence[Process] | None = None) -> None:
        chosen = self.processes if processes is None else processes
        for process in chosen:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in chosen:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


@contextmanager
def live_mesh() -> Iterator[LiveMesh]:
    mesh = LiveMesh()
    try:
        yield mesh
    except BaseException:
        mesh.show_logs()
        raise
    finally:
        mesh.close()
