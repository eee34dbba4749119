"""A live mesh with engines that show what becomes of their jobs, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlx_mesh import Mesh
from tests.live import PATIENT, LiveMesh, live_mesh
from tests.shown_engine import SHOWN

CREDIT_S = 90
"""How long the broker of a module waits for a reader: longer than a test waits for a worker to stop."""

ENGINE = (
    SHOWN
    + """
class Vectors(BatchEngine):
    '''embed: the length of a text, three times. order: the values in the order in which they are computed; ``hold``
    takes until there is a file ``go``.'''
    ops = ("embed", "order", "fail")
    models = ("small", "large")
    slots = 1
    batch_max = 1

    def run(self, batch):
        (value,) = batch
        if isinstance(value, dict):
            return [vectors(value["texts"])]
        if value == "raise":
            raise RuntimeError("as asked")
        say("ran", value)
        while value == "hold" and not os.path.exists("go"):
            time.sleep(0.005)
        time.sleep(value if isinstance(value, float) else 0.03)
        say("done", value)
        return [value]
"""
)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        mesh.engine(ENGINE)
        mesh.broker("--queue-max-requests", "40", "--credit-s", str(CREDIT_S), *PATIENT)
        mesh.worker("echo", "echo")
        mesh.worker("mine:Ticker", "ticker")
        mesh.worker("mine:Vectors", "vectors")
        with Mesh(mesh.endpoint) as client:
            client.ready(["echo", "tick", "embed"])
        yield mesh


@pytest.fixture
def mesh(live: LiveMesh) -> Iterator[Mesh]:
    with Mesh(live.endpoint) as client:
        yield client


@pytest.fixture
def own() -> Iterator[LiveMesh]:
    """A mesh that may be torn apart."""
    with live_mesh() as mesh:
        mesh.engine(ENGINE)
        yield mesh
