"""Workers that die, freeze, fall silent or stall under load: no caller sees an error."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlx_mesh import AsyncMesh, Mesh
from mlx_mesh_wire import messages, unpack_body
from mlx_mesh_wire.host import machine_id
from tests.broker.dealer import dealer
from tests.live import PATIENT, LiveMesh, Process, live_mesh, until

ENGINE = """
import os, time
from mlx_mesh_worker.engine import BatchEngine

class Work(BatchEngine):
    ops = ("work",)
    slots = 4
    batch_max = 4

    def run(self, batch):
        time.sleep(0.01)
        return [[value, os.getpid()] for value in batch]

class Slow(BatchEngine):
    ops = ("slow",)

    def run(self, batch):
        open("begun", "a").write("x")
        time.sleep(60 if os.environ.get("STUCK") else 0.01)
        return [os.getpid() for _ in batch]
"""


@pytest.fixture
def own() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        mesh.engine(ENGINE)
        yield mesh


def states(client: Mesh) -> dict[str, str]:
    return {worker["name"]: worker["state"] for worker in client.status()["workers"]}


async def _load(mesh: LiveMesh, victim: Process, calls: int) -> tuple[list[Any], float, float]:
    """Make calls all the time, kill a worker in the middle; return answers, longest wait, and time to recover."""
    finished: list[tuple[float, float]] = []
    served: set[int] = set()

    async def one(client: AsyncMesh, value: int) -> Any:
        began = time.monotonic()
        answer = await client.call("work", value, timeout=30.0)
        finished.append((began, time.monotonic()))
        served.add(answer[1])
        return answer

    async with AsyncMesh(mesh.endpoint) as client:
        await client.ready(["work"])
        gate = asyncio.Semaphore(24)
        killed = asyncio.get_running_loop().create_future()

        async def gated(value: int) -> Any:
            async with gate:
                if value != calls // 2:
                    return await one(client, value)
                while victim.pid not in served:  # noqa: ASYNC110  some call or other tells
                    await asyncio.sleep(0.01)
                call = asyncio.ensure_future(one(client, value))
                await asyncio.sleep(0)  # It is under way, so at least one call is, whatever the others do.
                victim.kill()
                killed.set_result(time.monotonic())
                return await call

        answers = await asyncio.gather(*(gated(value) for value in range(calls)))
        at = killed.result()
    held = [end - at for began, end in finished if began < at < end]
    return answers, max(end - began for began, end in finished), max(held)


@pytest.mark.slow
def test_sigkill_of_a_local_worker_under_load_fails_no_call_and_its_work_runs_elsewhere_at_once(
    own: LiveMesh, record_property: Any
) -> None:
    own.broker("--suspect-s", "20", "--lost-s", "30")  # so that silence alone would take far longer to tell
    workers = [own.worker("mine:Work", f"w{number}") for number in range(3)]
    with Mesh(own.endpoint) as client:
        until(lambda: list(states(client).values()) == ["ready"] * 3, "three workers")
        answers, longest_s, recovered_s = asyncio.run(_load(own, workers[0], 600))
        assert list(range(600)) == [value for value, _ in answers]
        assert {worker.pid for worker in workers} == {pid for _, pid in answers}
        counters = client.status()["counters"]
    record_property("recovered_s", round(recovered_s, 4))
    print(f"calls outstanding at SIGKILL answered within {recovered_s:.3f} s; longest call {longest_s:.3f} s")
    assert counters["workers_lost"] == 1
    assert recovered_s < 10.0


@pytest.mark.slow
def test_a_worker_that_is_stopped_becomes_suspect_its_work_moves_and_it_may_come_back(own: LiveMesh) -> None:
    # The other worker may be held up as well: for almost as long as the silence that is borne.
    own.broker("--beat-s", "0.1", "--suspect-s", "0.5", "--lost-s", "3.5")
    stuck = own.worker("mine:Slow", "a")
    with Mesh(own.endpoint) as client:
        client.ready(["slow"])
        other = own.worker("mine:Slow", "b")
        until(lambda: len(states(client)) == 2, "the second worker")
        stuck.send_signal(signal.SIGSTOP)
        # Requests go to the idle ones in turn, so one of two lands on the stopped worker and has to move.
        streams = [client.stream("slow", number, timeout=30.0, at_most_once=False) for number in range(2)]
        until(lambda: re.search(r"worker_suspect .*worker=a\b", own.log("broker")), "the suspicion")
        for each in streams:
            assert list(each) == []
            assert each.result == other.pid
        until(lambda: "a" not in states(client), "the worker to be lost")
        stuck.send_signal(signal.SIGCONT)
        until(lambda: states(client).get("a") == "ready", "the worker to come back")
        assert client.status()["counters"]["workers_lost"] == 1
    assert stuck.poll() is None


@pytest.mark.slow
def test_a_worker_that_falls_silent_is_lost_and_its_late_answer_reaches_nobody(own: LiveMesh) -> None:
    own.broker("--beat-s", "0.1", "--suspect-s", "0.2", "--lost-remote-s", "0.5", "--lost-s", "60")
    with dealer(own, "backend") as silent, dealer(own) as client, dealer(own, "backend") as other:
        client.hello()
        request = client.request("x", "value", flags=messages.Flag.WAIT_FOR_READY)
        silent.ready(ops=["x"], name="silent")  # It gets the job with its WELCOME, before it can have been too silent.
        job = silent.take(messages.Job)[0]
        other.ready(ops=["x"], name="other", machine=machine_id())  # Its own silence is borne for a minute.

        def moved() -> bool:
            other.say(messages.Beat(1, 0, False, [], [], {}, {}))
            other.pump(20)
            return any(isinstance(message, messages.Job) for message, _ in other.seen)

        until(moved, "the job to move")
        again, frames = other.take(messages.Job)
        assert (2, request, "value") == (again.attempt, again.request_id, unpack_body(frames))
        assert again.flags & messages.Flag.ALONE
        silent.say(messages.Final(job.job_id, 1, 0, 0, 0), b"\xa4late")
        assert silent.take(messages.Reset)
        other.say(messages.Final(again.job_id, 2, 0, 0, 0), b"\xa5right")
        assert client.answer(request) == "right"
        assert client.settle() == []


@pytest.mark.slow
def test_a_worker_that_beats_without_progress_is_stalled_and_its_work_moves(own: LiveMesh) -> None:
    own.broker("--beat-s", "0.1", "--stall-s", "0.5", "--deaths-max", "10", *PATIENT)
    with dealer(own, "backend") as stuck, dealer(own, "backend") as other, dealer(own) as client:
        client.hello()
        stuck.ready(ops=["x"], name="stuck")
        request = client.request("x", 1)
        job = stuck.take(messages.Job)[0]
        other.ready(ops=["x"], name="other")

        progress = itertools.count()

        def answered() -> bool:
            stuck.say(messages.Beat(7, 1, False, [], [], {}, {}))
            other.say(messages.Beat(next(progress), 1, False, [], [], {}, {}))
            other.pump(20)
            # More than one if this test is held up, since the other one is then thought to be stuck as well.
            for moved in (message for message, _ in other.seen if isinstance(message, messages.Job)):
                other.say(messages.Final(moved.job_id, moved.attempt, 0, 0, 0), b"\x02")
            client.pump()
            return any(isinstance(message, messages.Final) for message, _ in client.seen)

        until(answered, "the job to move")
        assert stuck.take(messages.Cancel, of=job.job_id)
        assert any(isinstance(message, messages.Job) for message, _ in other.seen)
        assert client.answer(request) == 2


@pytest.mark.slow
def test_a_job_that_a_worker_gives_back_runs_elsewhere_and_counts_no_death(own: LiveMesh) -> None:
    own.broker(*PATIENT)
    with dealer(own, "backend") as first, dealer(own, "backend") as second, dealer(own) as client:
        client.hello()
        first.ready(ops=["x"], name="first")
        request = client.request("x", 1)
        job = first.take(messages.Job)[0]
        second.ready(ops=["x"], name="second")
        first.say(messages.Quiet(True))
        first.say(messages.Return(job.job_id, "drained"))
        again = second.take(messages.Job)[0]
        assert (2, 0) == (again.attempt, again.flags)
        second.say(messages.Final(again.job_id, 2, 0, 0, 0), b"\x01")
        assert client.answer(request) == 1
