"""Clients through the loss of their broker: every call is answered once, with its own content."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq

from mlx_mesh import AsyncMesh, CancelledError, DeadlineExceededError, InternalError, Mesh
from mlx_mesh_wire import decode_header, encode_header, messages
from tests.broker.dealer import dealer
from tests.live import PATIENT, LiveMesh, until

REJOIN = ("--rejoin-s", "60")
"""Flags of a broker that comes after one that was killed: its workers may take as long as they need to come back."""


def said(live: LiveMesh) -> list[str]:
    path = live.dir / "said"
    return path.read_text().splitlines() if path.exists() else []


def test_a_first_call_without_a_broker_fails_within_its_timeout_and_says_what_to_do(own: LiveMesh) -> None:
    def failed(call: object, timeout_s: float) -> None:
        began = time.monotonic()
        with pytest.raises(DeadlineExceededError, match="start one with `mlx-mesh up`") as caught:
            call()  # type: ignore[operator]
        assert timeout_s <= time.monotonic() - began < timeout_s + 10.0
        assert own.endpoint in caught.value.message
        assert "MLX_MESH_ENDPOINT" in caught.value.message

    with Mesh(own.endpoint) as mesh:
        failed(lambda: mesh.call("echo", 1, timeout=0.3), 0.3)
        failed(lambda: mesh.ready(["echo"], timeout=0.3), 0.3)
        failed(lambda: mesh.embed(["a"] * 100, timeout=0.3), 0.3)

    async def first() -> None:
        async with AsyncMesh(own.endpoint) as mesh:
            await mesh.call("echo", 1, timeout=0.3)

    failed(lambda: asyncio.run(first()), 0.3)


def test_a_call_made_before_the_broker_starts_is_answered(own: LiveMesh) -> None:
    with Mesh(own.endpoint) as mesh, ThreadPoolExecutor(1) as pool:
        call = pool.submit(mesh.call, "echo", "early", wait_for_ready=True, timeout=30.0)
        own.broker()
        own.worker()
        assert call.result() == "early"


@pytest.mark.slow
def test_a_broker_killed_and_restarted_under_load_costs_no_call(own: LiveMesh) -> None:
    """Threads and tasks call all the time while the broker is killed twice."""
    broker = own.broker()
    for number in range(2):
        own.worker("echo", f"w{number}")
    stop = threading.Event()
    counts = [0] * 12

    def caller(mesh: Mesh, thread: int) -> None:
        while not stop.is_set():
            value = f"{thread}/{counts[thread]}"
            assert value == mesh.call("echo", value, timeout=30.0)
            counts[thread] += 1

    async def tasks() -> None:
        async def one(mesh: AsyncMesh, number: int) -> None:
            while not stop.is_set():
                items = [number, counts[number]]
                assert items == [item async for item in mesh.stream("echo", items, timeout=30.0)]
                counts[number] += 1

        async with AsyncMesh(own.endpoint) as mesh:
            await asyncio.gather(*(one(mesh, number) for number in range(4, 12)))

    with Mesh(own.endpoint) as mesh, Mesh(own.endpoint) as watcher, ThreadPoolExecutor(6) as pool:
        mesh.ready(["echo"])
        calls = [pool.submit(caller, mesh, thread) for thread in range(4)]
        calls.append(pool.submit(lambda: asyncio.run(tasks())))

        def loaded() -> bool:
            return watcher.status(timeout=30.0)["counters"]["answered"] > 200 or failed()

        def failed() -> bool:
            return any(call.done() for call in calls)

        try:
            epochs = [watcher.status()["epoch"]]
            for _ in range(2):
                until(loaded, "some load")
                broker.kill()
                broker.wait()
                broker = own.broker(*REJOIN)
                epochs.append(watcher.status(timeout=30.0)["epoch"])
            until(loaded, "some load")
            until(lambda: min(*counts[:4], sum(counts[4:])) > 20 or failed(), "calls of each thread")
        finally:
            stop.set()
        for call in calls:
            call.result(60)
    assert len(set(epochs)) == 3
    assert all(count > 20 for count in (*counts[:4], sum(counts[4:])))


def _work_over_a_restart(own: LiveMesh, seconds: float, restart_when: str) -> list[str]:
    """Make one call of so many seconds, restart the broker while it is under way, and return what the engine said."""
    broker = own.broker()
    own.worker("mine:Vectors", "vectors")
    with Mesh(own.endpoint) as mesh, ThreadPoolExecutor(1) as pool:
        mesh.ready(["order"])
        call = pool.submit(mesh.call, "order", seconds, timeout=30.0)
        until(lambda: f"ran {seconds}" in said(own), "the work to begin")
        broker.kill()
        broker.wait()
        until(lambda: f"{restart_when} {seconds}" in said(own), "the time to restart")
        own.broker(*REJOIN)
        assert call.result() == seconds
    return said(own)


@pytest.mark.slow
def test_work_that_outlasts_a_restart_of_the_broker_is_not_computed_twice(own: LiveMesh) -> None:
    assert ["ran 2.5", "done 2.5"] == _work_over_a_restart(own, 2.5, "ran")


@pytest.mark.slow
def test_work_that_ends_while_there_is_no_broker_is_not_computed_twice(own: LiveMesh) -> None:
    assert ["ran 0.2", "done 0.2"] == _work_over_a_restart(own, 0.2, "done")


@pytest.mark.slow
def test_a_stream_goes_on_over_a_restart_without_gap_or_repeat(own: LiveMesh) -> None:
    broker = own.broker()
    own.worker("mine:Ticker", "ticker")
    with Mesh(own.endpoint) as mesh:
        mesh.ready(["tick"])
        got = []
        with mesh.stream("tick", "t", timeout=30.0, window=8) as stream:
            for count in stream:
                got.append(count)
                if count == 20:
                    broker.kill()
                    broker.wait()
                    broker = own.broker(*REJOIN)
                if count == 200:
                    break
        assert got == list(range(201))
        until(lambda: "cancel t" in said(own), "the worker to stop")


@pytest.mark.slow
def test_a_hello_that_was_lost_with_its_broker_is_said_again(own: LiveMesh) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as dead, ThreadPoolExecutor(1) as pool:
        dead.bind(own.endpoint)
        with Mesh(own.endpoint) as mesh:
            call = pool.submit(mesh.call, "echo", "patience", timeout=60.0, wait_for_ready=True)
            assert dead.poll(30_000)
            dead.close(0)  # It took HELLO and REQUEST, and answered neither.
            own.broker()
            own.worker()
            began = time.monotonic()
            assert call.result() == "patience"
            assert time.monotonic() - began < 30.0


def test_a_broker_that_falls_silent_is_left_for_a_new_connection_with_the_call_sent_again(own: LiveMesh) -> None:
    # So far apart that a client which is held up from before the one until after the other takes it for a pause of its
    # own, and pings first.
    intervals = {"ping_ms": 100, "silent_ms": 1500}
    with zmq.Context() as context, context.socket(zmq.ROUTER) as mute, ThreadPoolExecutor(1) as pool:
        mute.bind(own.endpoint)
        heard: dict[bytes, list[Any]] = {}

        def listen() -> bool:
            while mute.poll(20):
                route, header, *_ = mute.recv_multipart()
                message = decode_header(header)
                heard.setdefault(route, []).append(message)
                if isinstance(message, messages.Hello):
                    mute.send_multipart([route, encode_header(messages.Welcome(1, 0, "e", {}, intervals))])
            return len(heard) > 1 and any(isinstance(each, messages.Request) for each in list(heard.values())[1])

        with Mesh(own.endpoint) as mesh:
            call = pool.submit(mesh.call, "echo", 1, timeout=60.0)
            until(listen, "the call on a second connection")
            mesh.close()
            assert isinstance(call.exception(), CancelledError)
    first, second = list(heard.values())[:2]
    assert messages.Ping in map(type, first)
    requests = [next(each for each in said if isinstance(each, messages.Request)) for said in (first, second)]
    assert requests[0].request_id == requests[1].request_id
    assert [0, messages.Flag.RESEND] == [request.flags & messages.Flag.RESEND for request in requests]
    assert requests[1].remaining_ms < requests[0].remaining_ms


@pytest.mark.slow
def test_the_work_of_a_client_that_is_gone_is_cancelled(own: LiveMesh) -> None:
    own.broker("--away-s", "0.3", "--ping-s", "0.1")
    own.worker("mine:Ticker", "ticker")
    with Mesh(own.endpoint) as mesh:
        mesh.ready(["hang"])
        with dealer(own) as peer:
            peer.hello()
            peer.request("hang", "vanishes")
            until(lambda: "begin vanishes" in said(own), "the job to begin")
        until(lambda: "cancel vanishes" in said(own), "the job to be cancelled")
        with dealer(own) as peer:
            peer.hello()
            peer.request("hang", "says-bye")
            until(lambda: "begin says-bye" in said(own), "the job to begin")
            peer.say(messages.Bye("enough"))
            until(lambda: "cancel says-bye" in said(own), "the job to be cancelled")
        counters = mesh.status()["counters"]
        assert counters["accepted"] == counters["answered"] == 2


@pytest.mark.slow
def test_a_client_that_comes_back_in_time_gets_the_answer_on_its_new_connection(own: LiveMesh) -> None:
    own.broker("--ping-s", "0.1", "--away-s", "60", *PATIENT)
    with dealer(own, "backend") as worker, dealer(own) as first, dealer(own) as second:
        worker.ready(ops=["x"])
        first.hello()
        request = first.request("x", 1)
        job = worker.take(messages.Job)[0]
        first.socket.close(0)
        second.session = first.session
        second.hello()
        worker.say(messages.Final(job.job_id, 1, 0, 0, 0), b"\x2a")
        assert second.answer(request) == 42


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while the lock is held"])
def test_a_client_from_before_a_fork_is_refused_in_the_child_and_works_on_in_the_parent(
    own: LiveMesh, busy: bool
) -> None:
    own.broker()
    own.worker()
    with Mesh(own.endpoint) as mesh:
        mesh.ready(["echo"])
        if busy:
            mesh._lock.acquire()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                mesh.call("echo", 1, timeout=5.0)
            except InternalError as error:
                if "made before a fork" in str(error):
                    with Mesh(own.endpoint) as own_mesh:
                        status = 0 if own_mesh.call("echo", "child") == "child" else 2
            finally:
                os._exit(status)
        if busy:
            mesh._lock.release()
        ended: list[int] = []
        until(lambda: ended.extend(os.waitpid(child, os.WNOHANG)) or ended[-2], "the child to end")
        assert os.waitstatus_to_exitcode(ended[-1]) == 0
        assert mesh.call("echo", "parent") == "parent"
