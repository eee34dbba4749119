"""Starts and stops the programs that are measured, and asks what CPU time they used."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import psutil

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PATIENCE_S = 90.0
STOP_WITHIN_S = 10.0

Process = subprocess.Popen[bytes]


class Group:
    """Processes with one run directory and one environment; all end when the block ends."""

    def __init__(self) -> None:
        # Socket paths may have 103 bytes, too few for the temporary folders of macOS.
        self.dir = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLX_MESH_")},
            "MLX_MESH_RUN_DIR": str(self.dir),
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        self._stack = ExitStack()
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stack.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def endpoint(self) -> str:
        """Where clients of this group's broker connect."""
        return f"ipc://{self.dir}/frontend.sock"

    def start(self, *command: str | Path, log: str) -> Process:
        """Start a program; its output goes to a file of the run directory."""
        file = self._stack.enter_context((self.dir / f"{log}.log").open("ab"))
        return self._start(command, stdout=file, stderr=file)

    def python(self, module: str, *args: str | Path, log: str) -> Process:
        """Start a module of this package."""
        return self.start(sys.executable, "-m", module, *args, log=log)

    def talk(self, module: str, *args: str) -> Conversation:
        """Start a module that answers lines on its standard input with lines of JSON."""
        process = self._start(
            (sys.executable, "-m", module, *args), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
        )
        return Conversation(process)

    def ask(self, module: str, *args: str) -> Any:
        """Run a module of this package to its end and return the JSON that it prints."""
        done = subprocess.run(
            (sys.executable, "-m", module, *args), env=self.env, stdout=subprocess.PIPE, cwd=ROOT, check=True
        )
        return json.loads(done.stdout)

    def broker(self, *args: str) -> Process:
        """Start a broker without a metrics port."""
        return self.start(BIN / "mlx-mesh-broker", "--metrics-port", "off", *args, log="broker")

    def mesh(self, engine: str, workers: int, *args: str) -> Process:
        """Start a broker and workers, wait until all of them are ready, and return the broker."""
        from mlx_mesh import Mesh

        broker = self.broker(*args)
        for number in range(workers):
            name = f"{engine}-{number}"
            self.start(BIN / "mlx-mesh-worker", "--engine", engine, "--name", name, log=name)
        with Mesh(self.endpoint) as mesh:
            mesh.ready([engine], timeout=PATIENCE_S)
            until(lambda: [w["state"] for w in mesh.status()["workers"]] == ["ready"] * workers, f"{workers} workers")
        return broker

    def log(self, name: str) -> str:
        """Return what a process wrote."""
        path = self.dir / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End every process, politely first."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(
        self,
        command: tuple[str | Path, ...],
        *,
        stdout: int | IO[bytes],
        stderr: IO[bytes] | None,
        stdin: int = subprocess.DEVNULL,
    ) -> Process:
        process = subprocess.Popen(command, env=self.env, cwd=ROOT, stdin=stdin, stdout=stdout, stderr=stderr)
        self._processes.append(process)
        return process


class Conversation:
    """A process that is asked one thing at a time; several can be asked before their answers are read."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._in, self._out = process.stdin, process.stdout

    def say(self, line: str) -> None:
        """Ask."""
        self._in.write(line.encode() + b"\n")
        self._in.flush()

    def hear(self) -> Any:
        """Return the next answer.

        Raises:
            RuntimeError: the process ended.
        """
        line = self._out.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, line: str) -> Any:
        """Ask and return the answer."""
        self.say(line)
        return self.hear()


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Return the first true result of a condition that is polled.

    Raises:
        TimeoutError: it did not come true.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not come true within {seconds:g} s")


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds, user and system, that a process used; 0 for pid 0."""
    if not pid:
        return 0.0
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
