"""An engine that returns what cannot be sent costs its caller a typed error, and nobody a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlx_mesh import EngineError, Mesh, TooLargeError
from tests.live import live_mesh

ODD = """
from mlx_mesh_wire import Tensor
from mlx_mesh_worker.engine import Chunk, Engine, RawResult, Result

OUTPUTS = {
    "frame": lambda job: RawResult(job, [bytes(65 * 2**20)]),
    "tensors": lambda job: Result(job, [Tensor(bytes(22 * 2**20), "uint8", (22 * 2**20,))] * 3),
    "most": lambda job: Result(job, bytes(64 * 2**20 - 4096 - 5)),
    "chunk": lambda job: Chunk(job, {1, 2}),
    "bare": lambda job: "bare",
    "fine": lambda job: Result(job, "fine"),
}

class Odd(Engine):
    ops = ("odd",)

    def __init__(self, model=""):
        super().__init__(model)
        self.jobs = {}

    def admit(self, job):
        self.jobs[job] = OUTPUTS[job.value()]

    def cancel(self, job):
        del self.jobs[job]

    def step(self):
        self.mark(self.jobs)
        jobs, self.jobs = self.jobs, {job: make for job, make in self.jobs.items() if job.stream}
        return [make(job) for job, make in jobs.items()]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with live_mesh() as live:
        live.engine(ODD)
        live.broker()
        worker = live.worker("mine:Odd")
        with Mesh(live.endpoint) as mesh:
            mesh.ready(["odd"])
            yield mesh
        assert worker.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("output", ["frame", "tensors"])
def test_a_result_over_the_limit_is_answered_with_it_and_computed_once(mesh: Mesh, output: str) -> None:
    with pytest.raises(TooLargeError, match="allowed are 67104768") as caught:
        mesh.call("odd", output, timeout=60.0)
    assert caught.value.details == {"field": "result", "limit": 67104768}
    assert mesh.call("odd", "fine") == "fine"


@pytest.mark.slow
def test_a_result_of_just_the_limit_arrives(mesh: Mesh) -> None:
    assert len(mesh.call("odd", "most", timeout=60.0)) == 67104768 - 5


@pytest.mark.slow
def test_what_is_no_output_fails_its_call(mesh: Mesh) -> None:
    with pytest.raises(EngineError, match="returned a str; allowed are Chunk"):
        mesh.call("odd", "bare", timeout=60.0)
    assert mesh.call("odd", "fine") == "fine"


@pytest.mark.slow
def test_a_chunk_that_cannot_be_encoded_fails_its_stream(mesh: Mesh) -> None:
    with pytest.raises(EngineError, match="the chunk cannot be sent: body is a set"), mesh.stream("odd", "chunk") as it:
        list(it)
    assert mesh.call("odd", "fine") == "fine"
