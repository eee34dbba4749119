"""AsyncMesh against a live mesh: tasks that share it, cancelling, closing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mlx_mesh import (
    AsyncMesh,
    CancelledError,
    DeadlineExceededError,
    InvalidRequestError,
    NoWorkerError,
    ProtocolError,
)
from mlx_mesh_wire import messages
from tests.broker.dealer import dealer
from tests.client.conftest import CREDIT_S
from tests.live import PATIENCE_S, WAITS_S, LiveMesh


def said(live: LiveMesh) -> list[str]:
    path = live.dir / "said"
    return path.read_text().splitlines() if path.exists() else []


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  a file or a process is looked at
            await asyncio.sleep(0.01)
    assert condition(), what


def run(live: LiveMesh, body: Callable[[AsyncMesh], Awaitable[None]]) -> None:
    """Run in a loop that checks itself: what is called from a wrong thread raises."""

    async def main() -> None:
        async with AsyncMesh(live.endpoint) as mesh:
            await body(mesh)

    asyncio.run(main(), debug=True)


@asynccontextmanager
async def task(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    made = asyncio.ensure_future(work)
    try:
        yield made
    finally:
        made.cancel()
        await asyncio.gather(made, return_exceptions=True)


def test_calls_streams_embeddings_and_status_work_as_in_mesh(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        await mesh.ready(["echo", "embed"])
        assert await mesh.call("echo", {"a": [1, b"x"]}) == {"a": [1, b"x"]}
        stream = mesh.stream("echo", list(range(100)), window=2)
        assert [chunk async for chunk in stream] == list(range(100)) == stream.result
        found = await mesh.embed(["x" * n for n in range(1, 60)])
        assert [[float(n)] * 3 for n in range(1, 60)] == found.tolist()
        assert {"epoch", "workers"} <= (await mesh.status()).keys()

    run(live, body)


def test_many_tasks_share_it_and_each_gets_its_own_answers(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        async def many(number: int) -> list[int]:
            return [await mesh.call("echo", number * 1000 + n) for n in range(20)]

        results = await asyncio.gather(*(many(number) for number in range(150)))
        assert [[number * 1000 + n for n in range(20)] for number in range(150)] == results

    run(live, body)


def test_cancelling_a_task_stops_the_worker(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        for value, work in {
            "a-call": mesh.call("hang", "a-call"),
            "a-stream": anext(mesh.stream("hang", "a-stream")),
        }.items():
            async with task(work) as running:
                await until(lambda v=value: f"begin {v}" in said(live), "the job to begin")
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            await until(lambda v=value: f"cancel {v}" in said(live), "the worker to stop")
        assert await mesh.call("echo", 1) == 1

    run(live, body)


def test_a_timeout_around_a_call_stops_the_worker(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        async def end_once_it_began(outer: asyncio.Timeout) -> None:
            await until(lambda: "begin outer-timeout" in said(live), "the job to begin")
            outer.reschedule(asyncio.get_running_loop().time())

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as outer, task(end_once_it_began(outer)):
                await mesh.call("hang", "outer-timeout")
        await until(lambda: "cancel outer-timeout" in said(live), "the worker to stop")

    run(live, body)


def test_leaving_an_iterator_stops_the_worker(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        began = asyncio.get_running_loop().time()
        async with mesh.stream("tick", "left") as stream:
            async for count in stream:
                if count == 30:
                    break
        await until(lambda: "cancel left" in said(live), "the worker to stop")
        async for count in mesh.stream("tick", "dropped"):
            if count == 3:
                break
        gc.collect()
        await until(lambda: "cancel dropped" in said(live), "the worker to stop")
        # Not by the broker, which ends a stream that nobody reads.
        assert asyncio.get_running_loop().time() - began < CREDIT_S - 5.0

    run(live, body)


def test_an_answer_that_is_garbage_is_a_protocol_error_for_its_call_only(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        loop = asyncio.get_running_loop()
        with dealer(live, "backend") as worker:
            await loop.run_in_executor(None, lambda: worker.ready(ops=["garbage"], name="garbage", slots=2))

            def answer(job: messages.Job) -> None:
                if job.window:
                    worker.say(messages.Chunk(job.job_id, 0), b"\xa1a")
                worker.say(messages.Final(job.job_id, 1, 0, 0, 0), b"\xc1")

            def serve() -> None:
                for _ in range(2):
                    answer(worker.take(messages.Job)[0])

            serving = loop.run_in_executor(None, serve)
            with pytest.raises(ProtocolError, match="body is not valid"):
                await mesh.call("garbage", 1, timeout=PATIENCE_S)
            stream = mesh.stream("garbage", 1, timeout=PATIENCE_S)
            assert await anext(stream) == "a"
            with pytest.raises(ProtocolError, match="body is not valid"):
                await anext(stream)
            await serving
            await loop.run_in_executor(None, worker.leave)
        assert await mesh.call("echo", 1) == 1

    run(live, body)


def test_one_failing_embed_cancels_the_rest_and_tells_why(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        with pytest.raises(DeadlineExceededError):
            await mesh.embed(["x" * 1000] * 400, timeout=0.001)
        assert await mesh.call("echo", 1) == 1

    run(live, body)


def test_deadlines_are_typed_and_on_time(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        late = await asyncio.gather(
            *(mesh.call("hang", "x", timeout=timeout) for timeout in (0.5, 0.1, 0.3)), return_exceptions=True
        )
        assert [DeadlineExceededError] * 3 == [type(each) for each in late]
        assert 0.5 <= loop.time() - began < 20.0
        for timeout in WAITS_S:
            with pytest.raises((NoWorkerError, DeadlineExceededError)) as caught:
                await mesh.ready(["nope"], timeout=timeout)
            if isinstance(caught.value, NoWorkerError):  # Otherwise not even the status came in time.
                break
        assert isinstance(caught.value, NoWorkerError)
        assert "nope" in caught.value.message
        with pytest.raises(InvalidRequestError, match="ops"):
            await mesh.ready(3)  # type: ignore[arg-type]

    run(live, body)


def test_closing_ends_what_is_under_way_and_later_use_is_told(live: LiveMesh) -> None:
    async def main() -> None:
        mesh = AsyncMesh(live.endpoint)
        stream = mesh.stream("tick", "async-closed")
        await anext(stream)
        async with task(mesh.call("hang", "async-closed-too")) as running:
            await until(lambda: "begin async-closed-too" in said(live), "the job to begin")
            await mesh.close()
            await mesh.close()
            with pytest.raises(CancelledError, match="closed; make a new one"):
                await running
        with pytest.raises(CancelledError):
            async for _ in stream:
                pass
        for use in (mesh.call("echo", 1), mesh.status(), mesh.embed("a"), anext(mesh.stream("echo", 1))):
            with pytest.raises(CancelledError, match="closed; make a new one"):
                await use
        await until(lambda: {"cancel async-closed", "cancel async-closed-too"} <= set(said(live)), "the worker to stop")

    asyncio.run(main(), debug=True)


def test_one_that_was_never_used_can_be_closed(live: LiveMesh) -> None:
    async def main() -> None:
        mesh = AsyncMesh(live.endpoint)
        await mesh.close()
        with pytest.raises(CancelledError):
            await mesh.call("echo", 1)

    asyncio.run(main(), debug=True)


def test_the_loop_goes_on_while_answers_flood_in(live: LiveMesh) -> None:
    async def body(mesh: AsyncMesh) -> None:
        longest, longest_computed = 0.0, 0.0

        async def heartbeat() -> None:
            nonlocal longest, longest_computed
            while True:
                before, computed = time.monotonic(), time.thread_time()
                await asyncio.sleep(0.005)
                longest = max(longest, time.monotonic() - before)
                longest_computed = max(longest_computed, time.thread_time() - computed)

        async with task(heartbeat()):
            for _ in range(5):
                assert 5000 == len([None async for _ in mesh.stream("echo", list(range(5000)), window=1024)])
        assert 0 < longest_computed < 0.5
        assert 0 < longest < 10.0  # The machine may hold it up, too.

    run(live, body)
