"""Real processes, real SIGKILL: work goes on elsewhere, and a request that kills does not get a third worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mlx_mesh import AsyncMesh, PoisonRequestError
from tests.faults.soak import TOLERANCE, corpus, soak, supervisor
from tests.live import PATIENCE_S, LiveMesh, Process, live_mesh, until

DEADLY = """
import os, signal, time
from mlx_mesh_worker.engine import BatchEngine

class Deadly(BatchEngine):
    ops = ("deadly",)
    slots = 4

    def load(self):
        pass

    def run(self, batch):
        time.sleep(0.05)
        if "die" in batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return [value.upper() for value in batch]
"""


DEADLY_TO_ADMIT = """
import os, signal, time
from mlx_mesh_worker.engine import BatchEngine

class Deadly(BatchEngine):
    ops = ("deadly",)
    slots = 4

    def admit(self, job):
        if job.value() == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        super().admit(job)

    def run(self, batch):
        time.sleep(0.05)
        return [value.upper() for value in batch]
"""


@pytest.fixture
def mesh() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        yield mesh


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", [False, True], ids=["workers", "broker"])
def test_a_corpus_survives_kills_with_the_vectors_of_an_undisturbed_run(mesh: LiveMesh, broker: bool) -> None:
    mesh.env["MLX_MESH_BROKER_DEATHS_MAX"] = "3"  # on a busy machine both kills may hit the same request
    supervisor(mesh, "up", "--detach")
    try:
        outcome = soak(mesh, corpus(150), 2, broker=broker, pause_s=(1.0, 2.0))
    finally:
        supervisor(mesh, "down")
    assert outcome.texts >= 150
    assert outcome.largest_difference < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("engine", [DEADLY, DEADLY_TO_ADMIT], ids=["computed", "admitted"])
def test_a_request_that_kills_two_workers_does_not_get_a_third_and_its_neighbours_are_answered(
    mesh: LiveMesh, engine: str
) -> None:
    mesh.engine(engine)
    mesh.broker()
    workers = [mesh.worker("mine:Deadly", f"w{index}") for index in range(3)]
    asyncio.run(_poison(mesh, workers))


async def _poison(mesh: LiveMesh, workers: list[Process]) -> None:
    async with AsyncMesh(mesh.endpoint) as client:
        await client.ready(["deadly"], timeout=30)
        async with asyncio.timeout(PATIENCE_S):
            while [w["state"] for w in (await client.status(timeout=PATIENCE_S))["workers"]] != ["ready"] * 3:  # noqa: ASYNC110  workers send no event
                await asyncio.sleep(0.05)
        texts = ["a", "b", "die", "c", "d", "e", "f"]
        answers = await asyncio.gather(*(client.call("deadly", text) for text in texts), return_exceptions=True)
        assert isinstance(answers[2], PoisonRequestError)
        assert ["A", "B", "C", "D", "E", "F"] == [*answers[:2], *answers[3:]]
        # A process that dies has lost its connections before its parent is told.
        until(lambda: len([each for each in workers if each.poll() is None]) == 1, "the end of two workers")
        with pytest.raises(PoisonRequestError):
            await client.call("deadly", "die")
        assert await client.call("deadly", "x") == "X"
        assert len([each for each in workers if each.poll() is None]) == 1
