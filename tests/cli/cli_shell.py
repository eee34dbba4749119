"""Runs the commands as a person at a terminal does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from mlx_mesh import Mesh, MeshError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

TOP = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE_S = 90.0
"""Generous: the machine may be slow and busy. Below what a test may take, so that it is told what was waited for."""

PATIENT_BROKER = {"MLX_MESH_BROKER_SUSPECT_S": "30", "MLX_MESH_BROKER_LOST_S": "60", "MLX_MESH_BROKER_STALL_S": "90"}
"""Workers that the machine has no time for are not taken for dead. Those that end are noticed at once all the same."""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds, and return its first true result."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)
    return found


class Shell:
    """Runs the commands of one user with one run directory, as a person at a terminal does."""

    def __init__(self, run_dir: Path | None, home: Path) -> None:
        self.home = home
        self.run_dir = run_dir or home / ".mlx-mesh" / "run"
        self.cwd = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLX_MESH_")}
        # As in a terminal whose virtual environment is not activated.
        path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != BIN)
        self.env = {**kept, **PATIENT_BROKER, "HOME": str(home), "PATH": path}
        if run_dir is not None:
            self.env["MLX_MESH_RUN_DIR"] = str(run_dir)

    def run(self, program: str, *args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a program of the virtual environment to its end."""
        command = [str(BIN / program), *map(str, args)]
        return subprocess.run(
            command, input=stdin, capture_output=True, env=self.env, cwd=self.cwd, timeout=PATIENCE_S, check=False
        )

    def start(self, program: str, *args: object) -> subprocess.Popen[bytes]:
        """Start a program in a process group of its own."""
        command = [str(BIN / program), *map(str, args)]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            cwd=self.cwd,
            start_new_session=True,
        )

    def mesh(self, *args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ``mlx-mesh`` to its end."""
        return self.run("mlx-mesh", *args, stdin=stdin)

    def good(self, *args: object, stdin: bytes = b"") -> str:
        """Run ``mlx-mesh``, demand exit status 0, return its stdout."""
        done = self.mesh(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def bad(self, *args: object, stdin: bytes = b"", status: int = 1) -> str:
        """Run ``mlx-mesh``, demand that failure and no traceback, return its stderr."""
        done = self.mesh(*args, stdin=stdin)
        errors = done.stderr.decode()
        assert (done.returncode, "Traceback" in errors) == (status, False), errors
        return errors

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return what the broker says of each worker, by its name; nothing while it does not answer.

        Not by ``mlx-mesh status``: those who ask again and again would keep a core busy with starting Python.
        """
        try:
            with Mesh(f"ipc://{self.run_dir}/frontend.sock") as client:
                return {worker["name"]: worker for worker in client.status()["workers"]}
        except MeshError:
            return {}

    def ready(self) -> dict[str, int]:
        """Return the pids of the workers that are ready, by their names.

        One that was not heard of for a moment, as on a busy machine, is not among them for that long.
        """
        return {name: worker["pid"] for name, worker in self.workers().items() if worker["state"] == "ready"}

    def wait_ready(self, *names: str, but: Container[int] = ()) -> dict[str, int]:
        """Wait until these workers are ready, and no others, and return their pids; those in ``but`` do not count."""

        def found() -> dict[str, int]:
            pids = self.ready()
            return pids if pids.keys() == set(names) and not any(pid in but for pid in pids.values()) else {}

        ready: dict[str, int] = wait_for(found, f"{', '.join(names)} ready, and no others")
        return ready

    def supervisorctl(self, *args: object) -> str:
        """Run ``supervisorctl`` with the conf of the checkout, return its output."""
        return self.run("supervisorctl", "-c", TOP / "supervisord.conf", *args).stdout.decode()

    def supervisord_pid(self) -> int | None:
        """Return the pid that supervisord left."""
        try:
            return int((self.run_dir / "supervisord.pid").read_text())
        except (OSError, ValueError):
            return None

    def clean_up(self) -> None:
        """Stop whatever is left of the mesh."""
        pid = self.supervisord_pid()
        if pid is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.mesh("down", "--timeout", 30)
        with contextlib.suppress(psutil.Error):
            left = psutil.Process(pid)
            environ = left.environ()
            # The pid in a file that was left may be another's by now.
            if all(environ.get(name) == self.env.get(name) for name in ("HOME", "MLX_MESH_RUN_DIR")):
                left.kill()


def changed_conf(folder: Path, old: str, new: str) -> Path:
    """Return the conf of the checkout with one thing changed."""
    text = (TOP / "supervisord.conf").read_text()
    assert old in text
    path = folder / "supervisord.conf"
    path.write_text(text.replace(old, new))
    return path
