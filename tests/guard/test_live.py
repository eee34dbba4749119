"""The guard and the broker die in the midst of a recycle, under a real supervisord: no caller notices."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from mlx_mesh_wire.supervisor import Supervisor
from tests.faults.callers import Callers
from tests.faults.supervision import status, witnesses
from tests.live import LiveMesh, live_mesh, until

SLOW = """
import time
from mine import Witness

class Slow(Witness):
    def load(self):
        time.sleep(1.0)
"""


def phases(told: dict[str, Any]) -> list[str]:
    """Return how far recycles are, by a status."""
    return [recycle["phase"] for recycle in (told["guard"] or {"recycles": []})["recycles"]]


def draining(mesh: LiveMesh) -> int:
    """Return the pid of the worker while it drains in a recycle; 0 otherwise. Both are told by one status."""
    told = status(mesh)
    if "drain" not in phases(told):
        return 0
    return next((worker["pid"] for worker in told["workers"] if worker["name"] == "embed-0"), 0)


def kill(mesh: LiveMesh, what: str) -> None:
    processes = Supervisor(mesh.dir).look()
    os.kill(next(each["pid"] for each in processes if what == each["name"]), signal.SIGKILL)


def settled(mesh: LiveMesh, before: int) -> bool:
    """Whether the worker has a successor that serves, alone."""
    told = status(mesh)
    serving = [(worker["state"], worker["pid"]) for worker in told["workers"]]
    stand_ins = [process for process in Supervisor(mesh.dir).look() if process["stand_in"]]
    return not phases(told) and not stand_ins and [state for state, pid in serving if pid != before] == ["ready"]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_only_worker_of_a_model_is_recycled_though_the_guard_and_the_broker_die_meanwhile() -> None:
    with live_mesh() as live:
        (live.dir / "slow.py").write_text(SLOW)
        live.env |= {"MLX_MESH_GUARD_MAX_AGE_S": "4", "MLX_MESH_GUARD_SAMPLE_S": "0.2"}
        one_slow = ("--engine mine:Witness", "--engine slow:Slow"), ("numprocs = 2", "numprocs = 1")
        with witnesses(live, *one_slow) as mesh, Callers(mesh, seconds=1.0) as callers:
            for what in ("guard", "broker"):
                before = until(lambda: draining(mesh), "a worker that drains")
                kill(mesh, what)
                until(lambda old=before: settled(mesh, old), f"the successor after the death of the {what}")
    assert callers.calls
    assert not callers.failed
