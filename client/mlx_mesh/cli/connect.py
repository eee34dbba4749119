"""Whether there is a broker to talk to, found out at once rather than by a timeout."""

from __future__ import annotations

from mlx_mesh.cli.output import fail
from mlx_mesh_wire.endpoints import IPC, listening
from mlx_mesh_wire.paths import client_endpoint, ipc_endpoint, run_dir

BROKER = "broker"
"""Name of its process."""

SOON = frozenset({"STARTING", "RUNNING", "BACKOFF", "STOPPING"})
"""What supervisord says of a broker that may be there in a moment."""


def require_broker(*, control: bool = False) -> None:
    """Raise CommandError unless a broker listens where clients, or with ``control`` operators, connect."""
    endpoint = ipc_endpoint("control") if control else client_endpoint()
    if listening(endpoint):
        return
    if not endpoint.startswith(f"{IPC}{run_dir()}/"):
        fail(f"no broker is running in {endpoint}; start the mesh with: mlx-mesh up")
    fail(f"no broker is running in {run_dir()}; {_what_to_do()}")


def _what_to_do() -> str:
    """Return what helps: a mesh that is up cannot be started again."""
    from mlx_mesh_wire.supervisor import Supervisor, log_of  # who has a broker does not wait for these

    broker = next((each for each in Supervisor(run_dir()).processes() if each["name"] == BROKER), None)
    if broker is None:
        return "start the mesh with: mlx-mesh up"
    text = f"the mesh is up and its broker is {broker['statename']}: look into {log_of(broker, run_dir())}"
    if broker["statename"] in SOON:
        return f"{text} if it stays so"
    return f"{text}, then: supervisorctl -c supervisord.conf start {BROKER}"
