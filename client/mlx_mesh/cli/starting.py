"""Watches a mesh that was just started until every part of it is ready."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.connect import listening
from mlx_mesh.cli.logs import tail
from mlx_mesh.cli.output import fail, note
from mlx_mesh_wire import MeshError
from mlx_mesh_wire.control import command
from mlx_mesh_wire.paths import ipc_endpoint
from mlx_mesh_wire.supervisor import never_started

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_wire.supervisor import Supervisor

WORKER_GROUPS = frozenset({"workers", "generate"})
"""The groups of ``supervisord.conf`` whose processes are workers, each under its own name."""

BROKER = "broker"
GIVEN_UP = frozenset({"FATAL", "EXITED"})
LOOK_EVERY_S = 0.05


def wait_until_ready(supervisor: Supervisor, directory: Path, timeout: float) -> None:
    """Return when every process runs and every worker is ready; report each as it gets there.

    Raises:
        CommandError: one of them was given up, supervisord is gone, or it takes too long.
    """
    begun = time.monotonic()
    told: dict[str, str] = {}
    while True:
        states = _states(supervisor)
        if not states:
            fail(f"supervisord is gone; look into {directory}/supervisord.log")
        for name, state in states.items():
            if told.get(name) != state:
                told[name] = state
                note(f"  {name}: {state} after {time.monotonic() - begun:.1f} s")
            if state in GIVEN_UP:
                _give_up(name, directory)
        if set(states.values()) == {"ready"}:
            return
        if time.monotonic() - begun > timeout:
            missing = ", ".join(f"{name} is {state}" for name, state in states.items() if state != "ready")
            fail(f"not ready after {timeout:g} s: {missing}; the logs are in {directory}")
        time.sleep(LOOK_EVERY_S)


def _states(supervisor: Supervisor) -> dict[str, str]:
    """Return ``ready``, or what else it is, for every process by its name, but for those that are off."""
    workers, processes = _workers(), supervisor.processes()
    begun = any(process["start"] for process in processes)  # supervisord starts all in one go
    return {p["name"]: _state(p, workers) for p in processes if not (begun and never_started(p))}


def _state(process: dict[str, Any], workers: dict[str, str] | None) -> str:
    """Return the state of a process; ``workers`` is None while no broker answers."""
    name, state = process["name"], str(process["statename"])
    if state in GIVEN_UP:
        return state
    if process["group"] in WORKER_GROUPS:
        return (workers or {}).get(name, state.lower() if state != "RUNNING" else "starting")
    # supervisord says RUNNING after a second; a broker that answers does not need to be waited for.
    return "ready" if state == "RUNNING" or (name == BROKER and workers is not None) else state.lower()


def _workers() -> dict[str, str] | None:
    if not listening(ipc_endpoint("control")):
        return None
    try:
        return {worker["name"]: worker["state"] for worker in command("status", {})["workers"]}
    except MeshError:
        return None


def _give_up(name: str, directory: Path) -> None:
    log = directory / f"{name}.log"
    for line in tail(log):
        note(f"  {name} | {line}")
    fail(f"{name} could not be started; its log is {log}")
