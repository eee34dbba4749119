"""What the processes of a mesh take, by pid: the life of a worker ends when it is recycled."""

from __future__ import annotations

import contextlib
import json
from typing import Any, NamedTuple

import psutil

from tests.live import LiveMesh


class Sample(NamedTuple):
    """One process at one time; bytes, and seconds since the beginning."""

    at_s: float
    rss: int
    fds: int
    threads: int


Lives = dict[tuple[str, int], list[Sample]]
"""Samples of each life of a process, by name and pid."""


def broker_pid(mesh: LiveMesh) -> int:
    """Return the pid of the broker, from its lock."""
    return int(json.loads((mesh.dir / "broker.lock").read_text())["pid"])


def sample(lives: Lives, at_s: float, pids: dict[str, int]) -> None:
    """Add a sample of each process that is there."""
    for name, pid in pids.items():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                taken = Sample(at_s, process.memory_info().rss, process.num_fds(), process.num_threads())
            lives.setdefault((name, pid), []).append(taken)


def pids_of(status: dict[str, Any], mesh: LiveMesh) -> dict[str, int]:
    """Return the pids of the broker and of the workers that are ready, by name."""
    ready = {worker["name"]: worker["pid"] for worker in status["workers"] if worker["state"] == "ready"}
    return {"broker": broker_pid(mesh), **ready}
