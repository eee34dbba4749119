"""The guard and the broker die in the midst of a recycle, under a real supervisord: no caller notices."""

from __future__ import annotations

import os
import signal
from typing import Any, NamedTuple

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


SERVES = ("embed-0", "ready")


def phases(told: dict[str, Any]) -> list[str]:
    """Return how far recycles are, by a status."""
    return [recycle["phase"] for recycle in (told["guard"] or {"recycles": []})["recycles"]]


class Recycled(NamedTuple):
    """The pids of a worker that drains and of those that stand in for it."""

    pid: int
    stand_ins: frozenset[int]


def draining(mesh: LiveMesh) -> Recycled | None:
    """Return who is recycled while the worker drains; None otherwise. Both are told by one status."""
    told = status(mesh)
    pid = next((worker["pid"] for worker in told["workers"] if worker["name"] == "embed-0"), 0)
    if "drain" not in phases(told) or not pid:
        return None
    return Recycled(pid, frozenset(each["pid"] for each in Supervisor(mesh.dir).look() if each["stand_in"]))


def kill(mesh: LiveMesh, what: str) -> None:
    processes = Supervisor(mesh.dir).look()
    pid = next(each["pid"] for each in processes if what == each["name"])
    assert pid, f"no {what} runs"
    os.kill(pid, signal.SIGKILL)


def settled(mesh: LiveMesh, before: Recycled) -> bool:
    """Whether the worker has a successor that serves, and nobody is left of its recycle.

    By then the successor may be old enough for the next one.
    """
    serving = {worker["pid"] for worker in status(mesh)["workers"] if (worker["name"], worker["state"]) == SERVES}
    left = {each["pid"] for each in Supervisor(mesh.dir).look()} & {before.pid, *before.stand_ins}
    return bool(serving - {before.pid}) and not left


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_only_worker_of_a_model_is_recycled_though_the_guard_and_the_broker_die_meanwhile() -> None:
    with live_mesh() as live:
        (live.dir / "slow.py").write_text(SLOW)
        live.env |= {"MLX_MESH_GUARD_MAX_AGE_S": "4", "MLX_MESH_GUARD_SAMPLE_S": "0.2"}
        live.env["MLX_MESH_BROKER_REJOIN_S"] = "30"  # The worker may take as long to come to the next broker.
        one_slow = ("--engine mine:Witness", "--engine slow:Slow"), ("numprocs = 2", "numprocs = 1")
        with witnesses(live, *one_slow) as mesh, Callers(mesh, seconds=1.0) as callers:
            for what in ("guard", "broker"):
                before = until(lambda: draining(mesh), "a worker that drains", 60)
                kill(mesh, what)
                until(lambda old=before: settled(mesh, old), f"the successor after the death of the {what}", 60)
    assert callers.calls
    assert not callers.failed
