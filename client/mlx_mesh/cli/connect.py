"""Whether there is a broker to talk to, found out at once rather than by a timeout."""

from __future__ import annotations

import socket

from mlx_mesh.cli.output import fail
from mlx_mesh_wire.paths import client_endpoint, ipc_endpoint, run_dir

IPC = "ipc://"


def listening(endpoint: str) -> bool:
    """Return whether somebody listens on an ipc endpoint; other endpoints count as listening."""
    if not endpoint.startswith(IPC):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(endpoint.removeprefix(IPC))
        except OSError:
            return False
    return True


def require_broker(*, control: bool = False) -> None:
    """Raise CommandError unless a broker listens where clients, or with ``control`` operators, connect."""
    endpoint = ipc_endpoint("control") if control else client_endpoint()
    if not listening(endpoint):
        where = run_dir() if endpoint.startswith(f"{IPC}{run_dir()}/") else endpoint
        fail(f"no broker is running in {where}; start the mesh with: mlx-mesh up")
