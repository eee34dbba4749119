"""One broker with an echo worker for each module; tests that end processes make a mesh of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlx_mesh import Mesh
from tests.live import PATIENT, LiveMesh, Process, live_mesh


@pytest.fixture(scope="module")
def mesh() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        yield mesh


@pytest.fixture(scope="module")
def broker(mesh: LiveMesh) -> Process:
    return mesh.broker("--metrics-port", "0", *PATIENT)


@pytest.fixture(scope="module")
def bystander(mesh: LiveMesh, broker: Process) -> Iterator[Mesh]:
    """A client that does nothing wrong."""
    mesh.worker()
    with Mesh(mesh.endpoint) as client:
        client.ready(["echo"])
        yield client
