"""Watches a mesh that was just started until every part of it is ready."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arriving import LOOK_EVERY_S, READY, broker_status, give_up, is_given_up, local_workers
from mlx_mesh.cli.connect import BROKER
from mlx_mesh.cli.merged import ALIVE, STARTING, state_of
from mlx_mesh.cli.output import fail, note
from mlx_mesh_wire.supervisor import full_name, never_started

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_wire.supervisor import Supervisor


def wait_until_ready(supervisor: Supervisor, directory: Path, timeout: float) -> None:
    """Return when every process runs and every worker is ready; report each as it gets there.

    Raises:
        CommandError: one of them was given up, supervisord is gone, or it takes too long.
    """
    begun = time.monotonic()
    told: dict[str, str] = {}
    while True:
        status, processes = broker_status(), _wanted(supervisor)
        if not processes:
            fail(f"supervisord is gone; look into {directory}/supervisord.log")
        states = {full_name(process): _state(process, status) for process in processes}
        for process in processes:
            state = states[full_name(process)]
            if told.get(full_name(process)) != state:
                told[full_name(process)] = state
                note(f"  {process['name']}: {state} after {time.monotonic() - begun:.1f} s")
            if is_given_up(process):
                give_up(process, directory)
        if set(states.values()) == {READY}:
            return
        if time.monotonic() - begun > timeout:
            missing = ", ".join(f"{name} is {state}" for name, state in states.items() if state != READY)
            fail(f"not ready after {timeout:g} s: {missing}; the logs are in {directory}")
        time.sleep(LOOK_EVERY_S)


def _wanted(supervisor: Supervisor) -> list[dict[str, Any]]:
    """Return the processes but for those that are off."""
    processes = supervisor.processes()
    begun = any(process["start"] for process in processes)  # supervisord starts all in one go
    return [process for process in processes if not (begun and never_started(process))]


def _state(process: dict[str, Any], status: dict[str, Any] | None) -> str:
    """Return ``ready``, or what else a process is; ``status`` is None while no broker answers."""
    state = str(process["statename"])
    if is_given_up(process):
        return state
    if process["worker"]:
        return state_of(process, local_workers(status).get(process["pid"]))
    if process["guard"]:
        # Not as soon as it runs: with wrong settings it would be gone a moment later, and nobody told.
        reports = bool(status and status["guard"])
        return (READY if reports else STARTING) if state in ALIVE else state.lower()
    # supervisord says RUNNING after a second; a broker that answers does not need to be waited for.
    early = process["name"] == BROKER and status is not None
    return READY if state == "RUNNING" or early else state.lower()
