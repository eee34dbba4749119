"""Whether there is a broker to talk to, found out at once rather than by a timeout."""

from __future__ import annotations

from mlx_mesh.cli.output import fail
from mlx_mesh_wire.endpoints import IPC, listening
from mlx_mesh_wire.paths import client_endpoint, ipc_endpoint, run_dir

__all__ = ["listening", "require_broker"]


def require_broker(*, control: bool = False) -> None:
    """Raise CommandError unless a broker listens where clients, or with ``control`` operators, connect."""
    endpoint = ipc_endpoint("control") if control else client_endpoint()
    if not listening(endpoint):
        where = run_dir() if endpoint.startswith(f"{IPC}{run_dir()}/") else endpoint
        fail(f"no broker is running in {where}; start the mesh with: mlx-mesh up")
