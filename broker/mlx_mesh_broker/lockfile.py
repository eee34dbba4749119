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
    """An advisory lock that the kernel gives back when the process ends, however it ends.

    Attributes:
        abandoned: the broker before did not end in order: what it wrote into the file is still there.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / LOCK_NAME
        self._descriptor, left = _take(run_dir)
        self.abandoned = bool(left)
        self._sign()

    def held(self) -> bool:
        """Return whether this is still the run directory's lock; if its file was deleted, take a new one.

        False if another broker has the new one, or the directory is gone.
        """
        try:
            if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                return True
        except OSError:
            pass
        try:
            descriptor, _ = _take(self._path.parent)
        except (AlreadyRunningError, OSError):
            return False
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._sign()
        return True

    def release(self, *, in_order: bool = True) -> None:
        """Let another broker start; it is told whether this one ended in order."""
        if in_order:
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _sign(self) -> None:
        os.ftruncate(self._descriptor, 0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "started": started}).encode(), 0)


def _take(run_dir: Path) -> tuple[int, bytes]:
    """Lock the file of a run directory; return its descriptor and what it held.

    Raises:
        AlreadyRunningError: another process has it.
    """
    descriptor = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 4096)
        os.close(descriptor)
        raise AlreadyRunningError(_describe(run_dir, holder)) from None
    return descriptor, os.read(descriptor, 4096)


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
