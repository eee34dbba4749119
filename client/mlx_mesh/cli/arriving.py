"""Waits for single worker processes: until the broker says that one is ready, or until it is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

from mlx_mesh.cli.logs import tail
from mlx_mesh.cli.merged import is_here, state_of
from mlx_mesh.cli.output import fail, note
from mlx_mesh_wire import MeshError
from mlx_mesh_wire.control import command
from mlx_mesh_wire.endpoints import listening
from mlx_mesh_wire.host import host_name
from mlx_mesh_wire.paths import ipc_endpoint
from mlx_mesh_wire.supervisor import full_name, log_of

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_wire.supervisor import Supervisor

READY = "ready"
LOOK_EVERY_S = 0.05


def broker_status() -> dict[str, Any] | None:
    """Return what the broker says of itself and the mesh; None while it does not answer."""
    if not listening(ipc_endpoint("control")):
        return None
    try:
        status: dict[str, Any] = command("status", {})
    except MeshError:
        return None
    return status


def local_workers(status: dict[str, Any] | None) -> dict[int, dict[str, Any]]:
    """Return the workers on this machine, by pid, of a ``broker_status``; none while it does not answer."""
    workers = status["workers"] if status else ()
    return {worker["pid"]: worker for worker in workers if is_here(worker, host_name())}


def find(supervisor: Supervisor, name: str) -> dict[str, Any] | None:
    """Return what supervisord says of the process ``group:name``; None if there is none."""
    return next((process for process in supervisor.look() if full_name(process) == name), None)


def wait_until_serving(supervisor: Supervisor, name: str, timeout: float, *, old_pid: int = 0) -> int:
    """Return the pid of a process once the broker says that it is ready, and report how it gets there.

    Args:
        supervisor: that runs it.
        name: of the process, ``group:name``.
        timeout: seconds.
        old_pid: of the one that is to be followed by another.

    Raises:
        CommandError: it was given up, stopped or removed, or it takes too long.
    """
    begun = time.monotonic()
    told = ""
    while True:
        process = find(supervisor, name)
        if process is None:
            fail(f"{name} was removed meanwhile")
        state = _state(process, old_pid)
        if state != told:
            told = state
            note(f"  {process['name']}: {state} after {time.monotonic() - begun:.1f} s")
        if state == READY:
            return int(process["pid"])
        if is_given_up(process):
            give_up(process, supervisor.socket.parent)
        if process["statename"] == "STOPPED":
            fail(f"{name} was stopped meanwhile; start it with: supervisorctl start {name}")
        if time.monotonic() - begun > timeout:
            give_up(process, supervisor.socket.parent, f"is not ready after {timeout:g} s but {state}")
        time.sleep(LOOK_EVERY_S)


def wait_until_gone(supervisor: Supervisor, name: str, timeout: float) -> None:
    """Return once supervisord has no such process any more.

    Raises:
        CommandError: it is still there after ``timeout`` seconds.
    """
    begun = time.monotonic()
    while (process := find(supervisor, name)) is not None:
        if time.monotonic() - begun > timeout:
            fail(f"{name} is still {process['statename']} after {timeout:g} s; it leaves when it has finished")
        time.sleep(LOOK_EVERY_S)
    note(f"  {name.rpartition(':')[2]}: gone after {time.monotonic() - begun:.1f} s")


def is_given_up(process: dict[str, Any]) -> bool:
    """Whether supervisord will not start a process that ended again by itself."""
    return process["statename"] in ("FATAL", "EXITED") and not process["restarting"]


def give_up(process: dict[str, Any], directory: Path, why: str = "could not be started") -> NoReturn:
    """Show the end of a process's log and raise CommandError."""
    log = log_of(process, directory)
    for line in tail(log):
        note(f"  {process['name']} | {line}")
    fail(f"{process['name']} {why}; its log is {log}")


def _state(process: dict[str, Any], old_pid: int) -> str:
    if old_pid and process["pid"] == old_pid:
        return "stopping"
    return state_of(process, local_workers(broker_status()).get(process["pid"]))
