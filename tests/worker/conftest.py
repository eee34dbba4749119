"""A run directory, and in it the broker's end of a worker's connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live import LiveMesh, live_mesh
from tests.worker.peer import Peer


@pytest.fixture
def mesh() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        yield mesh


@pytest.fixture
def peer(mesh: LiveMesh) -> Iterator[Peer]:
    peer = Peer(mesh)
    yield peer
    peer.context.destroy(0)
