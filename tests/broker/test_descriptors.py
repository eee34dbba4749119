"""A broker takes all the descriptors that it may have, whatever limit it was started with."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Iterator

import pytest

from mlx_mesh import Mesh
from tests.live import BIN, LiveMesh, live_mesh, until

FEW = 64
CONNECTIONS = 150


@pytest.fixture
def mesh() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        yield mesh


@pytest.mark.slow
def test_more_connections_than_the_limit_it_was_started_with_end_no_broker(mesh: LiveMesh) -> None:
    """libzmq aborts the process when accept() on an ipc socket finds no descriptor left."""
    script = f"ulimit -S -n {FEW}; exec {shlex.quote(str(BIN / 'mlx-mesh-broker'))}"
    with (mesh.dir / "broker.log").open("ab") as log:
        broker = subprocess.Popen(["sh", "-c", script], env=mesh.env, stdout=log, stderr=log, cwd=mesh.dir)
    mesh.processes.append(broker)
    until(lambda: "broker_ready" in mesh.log("broker"), "the broker to be ready")
    peers = [socket.socket(socket.AF_UNIX) for _ in range(CONNECTIONS)]
    for peer in peers:
        peer.connect(str(mesh.dir / "frontend.sock"))
    with Mesh(mesh.endpoint) as client:
        assert client.status(timeout=30)["epoch"]
    assert broker.poll() is None, mesh.log("broker")
    for peer in peers:
        peer.close()
