"""Whether there is a broker to talk to, found out at once rather than by a timeout."""

from __future__ import annotations

import time
from typing import Any

from mlx_mesh.cli.output import fail
from mlx_mesh_wire.endpoints import IPC, listening
from mlx_mesh_wire.paths import client_endpoint, ipc_endpoint, run_dir

BROKER = "broker"
"""Name of its process."""

SOON = frozenset({"STARTING", "RUNNING", "BACKOFF", "STOPPING"})
"""What supervisord says of a broker that may be there in a moment."""

SOON_MAX_S = 10.0
"""How long that moment may be: supervisord starts it again at once, a second time after 1 s, a third time 2 s later. On
a busy machine a broker takes seconds to start.
"""

LOOK_S = 0.1


def require_broker(*, control: bool = False) -> None:
    """Raise CommandError unless a broker listens where clients, or with ``control`` operators, connect.

    A broker that supervisord is about to start is waited for, at most ``SOON_MAX_S``.
    """
    endpoint = ipc_endpoint("control") if control else client_endpoint()
    if listening(endpoint):
        return
    if not endpoint.startswith(f"{IPC}{run_dir()}/"):
        fail(f"no broker is running in {endpoint}; start the mesh with: mlx-mesh up")
    given_up_at = time.monotonic() + SOON_MAX_S
    while (broker := _process()) and _may_come(broker) and time.monotonic() < given_up_at:
        time.sleep(LOOK_S)
        if listening(endpoint):
            return
    fail(f"no broker is running in {run_dir()}; {_what_to_do(broker)}")


def _process() -> dict[str, Any] | None:
    """Return what supervisord says of the broker's process; None if nothing is up here."""
    from mlx_mesh_wire.supervisor import Supervisor  # who has a broker does not wait for this

    return next((each for each in Supervisor(run_dir()).processes() if each["name"] == BROKER), None)


def _may_come(broker: dict[str, Any]) -> bool:
    return broker["restarting"] or broker["statename"] in SOON


def _what_to_do(broker: dict[str, Any] | None) -> str:
    """Return what helps: a mesh that is up cannot be started again."""
    from mlx_mesh_wire.supervisor import log_of

    if broker is None:
        return "start the mesh with: mlx-mesh up"
    text = f"the mesh is up and its broker is {broker['statename']}: look into {log_of(broker, run_dir())}"
    if _may_come(broker):
        return f"{text} if it stays so"
    return f"{text}, then: supervisorctl -c supervisord.conf start {BROKER}"
