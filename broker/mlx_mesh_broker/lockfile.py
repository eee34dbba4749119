"""One broker for each run directory. Without a lock a second bind would take over an ipc path without a word."""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOCK_NAME = "broker.lock"


class AlreadyRunningError(Exception):
    """Another broker holds the run directory; the message says which."""


class RunDirLock:
    """An advisory lock that the kernel gives back when the process ends, however it ends."""

    def __init__(self, run_dir: Path) -> None:
        self._descriptor = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._descriptor, 4096)
            os.close(self._descriptor)
            raise AlreadyRunningError(_describe(run_dir, holder)) from None
        os.ftruncate(self._descriptor, 0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.write(self._descriptor, json.dumps({"pid": os.getpid(), "started": started}).encode())

    def release(self) -> None:
        """Let another broker start."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _describe(run_dir: Path, holder: bytes) -> str:
    try:
        facts = json.loads(holder)
        who = f"pid {facts['pid']}, since {facts['started']}"
    except (ValueError, KeyError, TypeError):
        who = "a process that has just started"
    return (
        f"a broker already serves {run_dir} ({who}); stop it with `mlx-mesh down`, or choose another directory "
        "with MLX_MESH_RUN_DIR"
    )
