"""A live mesh with engines that show what becomes of their jobs, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlx_mesh import Mesh
from tests.live import PATIENT, LiveMesh, live_mesh

CREDIT_S = 90
"""How long the broker of a module waits for a reader: longer than a test waits for a worker to stop."""

ENGINE = """
import os, struct, time
from mlx_mesh_wire import Tensor, OverloadedError
from mlx_mesh_worker.engine import BatchEngine, Chunk, Engine, Result

def say(what, value):
    with open("said", "a") as file:
        file.write(f"{what} {value}\\n")

class Ticker(Engine):
    '''tick: counts for ever; hang: never answers. Both tell of their begin and their end in the file ``said``.'''
    ops = ("tick", "hang")
    slots = 64

    def __init__(self, model=""):
        super().__init__(model)
        self.jobs = {}

    def admit(self, job):
        self.jobs[job] = 0
        say("begin", job.value())

    def cancel(self, job):
        if self.jobs.pop(job, None) is not None:
            say("cancel", job.value())

    def step(self):
        time.sleep(0.002)
        self.mark(list(self.jobs))
        out = []
        for job, count in self.jobs.items():
            if job.op == "tick" and not job.blocked:
                self.jobs[job] = count + 1
                out.append(Chunk(job, count))
        return out

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
            texts = value["texts"]
            data = b"".join(struct.pack("<3f", *[len(text)] * 3) for text in texts)
            return [{
                "vectors": Tensor(data, "float32", (len(texts), 3)), "tokens": [len(t) for t in texts],
                "truncated": [i for i, t in enumerate(texts) if len(t) > 1000], "model": "small",
            }]
        if value == "raise":
            raise RuntimeError("as asked")
        say("ran", value)
        while value == "hold" and not os.path.exists("go"):
            time.sleep(0.005)
        time.sleep(value if isinstance(value, float) else 0.03)
        say("done", value)
        return [value]
"""


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
