"""Mesh against a live mesh: results, errors, streams, cancelling, lanes, retries, threads."""

from __future__ import annotations

import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh import (
    CancelledError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    Mesh,
    NoWorkerError,
    OverloadedError,
    Tensor,
    TooLargeError,
    UnknownModelError,
)
from tests.live import PATIENCE_S, WAITS_S, LiveMesh, until


def said(live: LiveMesh) -> list[str]:
    path = live.dir / "said"
    return path.read_text().splitlines() if path.exists() else []


VALUES = [None, True, 0, -1, 2**63, 1.5, "", "\U0001f600", b"", b"\x00", [], {}, [1, [2, {"a": None}]], {"": [b"x"]}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_call_returns_the_value_as_it_was(mesh: Mesh, value: Any) -> None:
    result = mesh.call("echo", value)
    assert (type(value), value) == (type(result), result)


def test_tensors_and_large_bodies_come_back_whole(mesh: Mesh) -> None:
    data = bytes(range(256)) * 4096 * 16
    result = mesh.call("echo", {"x": Tensor(data, "float32", (16, 256, 1024)), "big": data})
    assert data == bytes(result["x"].data) == result["big"]
    assert ("float32", (16, 256, 1024)) == (result["x"].dtype, result["x"].shape)


def test_embed_keeps_the_order_over_many_requests(mesh: Mesh) -> None:
    texts = ["x" * (1 + number % 90) for number in range(100)] + ["y" * 1500]
    found = mesh.embed(texts)
    assert (101, 3, "small") == (len(found), found.dimension, found.model)
    assert [[float(len(text))] * 3 for text in texts] == found.tolist()
    assert [100] == found.truncated
    assert [len(text) for text in texts] == found.tokens
    assert found[-1] == [1500.0] * 3
    assert found.numpy().shape == (101, 3)


def test_a_stream_gives_each_chunk_once_and_then_the_result(mesh: Mesh) -> None:
    items = list(range(500))
    stream = mesh.stream("echo", items, window=3)
    assert items == list(stream)
    assert items == stream.result
    assert [] == list(stream)


def test_status_names_workers_queues_and_limits(mesh: Mesh) -> None:
    status = mesh.status()
    assert ["echo", "ticker", "vectors"] == [worker["name"] for worker in status["workers"]]
    assert {"pid", "host", "state", "ops", "models", "slots", "in_flight", "memory"} <= status["workers"][0].keys()
    assert {"epoch", "queues", "limits", "uptime_s", "counters"} <= status.keys()


def test_ready_returns_at_once_or_names_what_is_missing(mesh: Mesh) -> None:
    mesh.ready(["echo", "tick"], timeout=PATIENCE_S)
    mesh.ready("echo", timeout=PATIENCE_S)
    for timeout in WAITS_S:
        began = time.monotonic()
        with pytest.raises((NoWorkerError, DeadlineExceededError)) as caught:
            mesh.ready(["nope", "echo", "nada"], timeout=timeout)
        assert time.monotonic() - began < timeout + 10.0
        if isinstance(caught.value, NoWorkerError):  # Otherwise not even the status came in time.
            break
    assert isinstance(caught.value, NoWorkerError)
    assert f"no ready worker for nope, nada within {timeout:g} s" in caught.value.message


def test_ready_sees_a_worker_that_comes_later(own: LiveMesh) -> None:
    own.broker()
    with Mesh(own.endpoint) as mesh, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(mesh.ready, ["echo"], timeout=30.0)
        waiting_call = pool.submit(mesh.call, "echo", 1, wait_for_ready=True)
        own.worker()
        assert waits.result() is None
        assert waiting_call.result() == 1


def test_leaving_a_stream_early_stops_the_worker(live: LiveMesh, mesh: Mesh) -> None:
    with mesh.stream("tick", "with") as stream:
        assert [next(stream) for _ in range(40)] == list(range(40))
    until(lambda: "cancel with" in said(live), "the worker to stop")
    for count in mesh.stream("tick", "break"):
        if count == 3:
            break
    until(lambda: "cancel break" in said(live), "the worker to stop")
    with pytest.raises(CancelledError, match="the reader left the stream"):
        next(stream)


def test_a_deadline_ends_the_call_with_its_type_and_stops_the_worker(live: LiveMesh, mesh: Mesh) -> None:
    for timeout in WAITS_S:
        began = time.monotonic()
        with pytest.raises(DeadlineExceededError) as caught:
            mesh.call("hang", f"late {timeout}", timeout=timeout)
        # The broker is told whole milliseconds.
        assert timeout - 0.01 <= time.monotonic() - began < timeout + 10.0
        assert (caught.value.code, caught.value.retryable) == ("DEADLINE_EXCEEDED", False)
        assert isinstance(caught.value, TimeoutError)
        if f"begin late {timeout}" in said(live):
            break
    until(lambda: f"cancel late {timeout}" in said(live), "the worker to stop")
    for timeout in WAITS_S:
        with pytest.raises(DeadlineExceededError):
            list(mesh.stream("tick", f"late stream {timeout}", timeout=timeout))
        if f"begin late stream {timeout}" in said(live):
            break
    until(lambda: f"cancel late stream {timeout}" in said(live), "the worker to stop")


def test_an_exception_of_the_engine_is_an_engine_error(mesh: Mesh) -> None:
    with pytest.raises(EngineError, match="RuntimeError: as asked") as caught:
        mesh.call("fail", "raise")
    assert "ENGINE_ERROR" == pickle.loads(pickle.dumps(caught.value)).code


def test_what_nobody_serves_is_refused_at_once_with_what_there_is(mesh: Mesh) -> None:
    with pytest.raises(NoWorkerError, match="the mesh serves echo, embed"):
        mesh.call("nope", 1)
    with pytest.raises(UnknownModelError, match="there is large, small"):
        mesh.call("order", 1, model="huge")
    assert mesh.call("order", 1, model="large") == 1


def test_higher_lanes_go_first(live: LiveMesh, mesh: Mesh) -> None:
    lanes = ["bulk"] * 8 + ["standard"] * 4 + ["interactive"] * 4
    before = len(said(live))
    with ThreadPoolExecutor(17) as pool:
        blocker = pool.submit(mesh.call, "order", "hold", lane="interactive")
        try:
            until(lambda: "ran hold" in said(live), "the worker to be busy")
            calls = []
            for number, lane in enumerate(lanes):
                calls.append(pool.submit(mesh.call, "order", f"{lane}-{number}", lane=lane))
            until(lambda: mesh.status()["counters"]["outstanding"] == 17, "all calls to wait")
        finally:
            (live.dir / "go").touch()
        for call in [blocker, *calls]:
            call.result()
    ran = [line.split()[1].split("-")[0] for line in said(live)[before:] if line.startswith("ran ")]
    places = {lane: [place for place, each in enumerate(ran) if each == lane] for lane in set(lanes)}
    means = {lane: sum(found) / len(found) for lane, found in places.items()}
    assert means["interactive"] < means["standard"] < means["bulk"]


def test_what_is_refused_for_overload_is_tried_again_and_succeeds(live: LiveMesh) -> None:
    with Mesh(live.endpoint) as one, Mesh(live.endpoint) as two, ThreadPoolExecutor(96) as pool:
        for _ in range(300):  # The broker tells when to come back by its pace so far.
            one.call("order", {"texts": ["quick"]})
        calls = [pool.submit((one, two)[n % 2].call, "order", n, timeout=30.0) for n in range(60)]
        outcomes = [call.exception() for call in calls]
        refused = [each for each in outcomes if each is not None]
        # A client's budget is ten retries; more refusals than that must be typed, and say when to come back.
        assert all(isinstance(each, OverloadedError) and each.retryable for each in refused)
        assert sum(each is None for each in outcomes) >= 42


def test_threads_share_one_mesh_and_each_gets_its_own_answers(mesh: Mesh) -> None:
    def many(thread: int) -> list[Any]:
        return [mesh.call("echo", [thread, number]) for number in range(100)]

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(many, range(16)))
    assert [[[thread, number] for number in range(100)] for thread in range(16)] == results


def test_more_calls_than_places_wait_their_turn(live: LiveMesh, mesh: Mesh) -> None:
    streams = [mesh.stream("hang", f"place {number}", timeout=20.0) for number in range(64)]
    with pytest.raises(DeadlineExceededError):
        mesh.call("echo", "no place", timeout=0.2)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(mesh.call, "echo", "a place in the end", timeout=60.0)
        for stream in streams:
            stream.close()
        assert waits.result() == "a place in the end"


def test_calls_that_gave_up_waiting_take_nobodys_place(mesh: Mesh) -> None:
    streams = [mesh.stream("hang", f"all {number}", timeout=30.0) for number in range(64)]
    for _ in range(3):
        abandoned = [mesh.stream("echo", 1, timeout=30.0) for _ in range(500)]
        for stream in abandoned:
            stream.close()
    for stream in streams:
        stream.close()
    assert mesh.call("echo", "served", timeout=60.0) == "served"


def test_use_after_close_is_told_and_closing_ends_what_is_under_way(live: LiveMesh) -> None:
    mesh = Mesh(live.endpoint)
    stream = mesh.stream("tick", "closed")
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(mesh.call, "hang", "closed too")
        until(lambda: "begin closed too" in said(live), "the call to begin")
        mesh.close()
        mesh.close()
        with pytest.raises(CancelledError, match="closed; make a new one"):
            waits.result(PATIENCE_S)
    with pytest.raises(CancelledError):
        list(stream)
    uses: list[Callable[[], Any]] = [
        lambda: mesh.call("echo", 1),
        lambda: mesh.embed("a"),
        lambda: mesh.stream("echo", 1),
        mesh.status,
        lambda: mesh.ready(["echo"]),
    ]
    for use in uses:
        with pytest.raises(CancelledError, match="closed; make a new one"):
            use()
    until(lambda: {"cancel closed", "cancel closed too"} <= set(said(live)), "the worker to stop")


BAD: dict[str, tuple[str, Callable[[Mesh], Any]]] = {
    "op of the wrong type": ("op", lambda m: m.call(5, 1)),  # type: ignore[arg-type]
    "empty op": ("op", lambda m: m.call("", 1)),
    "long op": ("op", lambda m: m.call("x" * 65, 1)),
    "op that is no text": ("op", lambda m: m.call("\ud800", 1)),
    "timeout 0": ("timeout", lambda m: m.call("echo", 1, timeout=0)),
    "timeout NaN": ("timeout", lambda m: m.call("echo", 1, timeout=float("nan"))),
    "timeout None": ("timeout", lambda m: m.call("echo", 1, timeout=None)),  # type: ignore[arg-type]
    "timeout text": ("timeout", lambda m: m.embed("a", timeout="1")),  # type: ignore[arg-type]
    "timeout of over a week": ("timeout", lambda m: m.status(timeout=1e9)),
    "timeout of ready": ("timeout", lambda m: m.ready(["echo"], timeout="soon")),  # type: ignore[arg-type]
    "lane": ("lane", lambda m: m.call("echo", 1, lane="fast")),
    "lane of the wrong type": ("lane", lambda m: m.call("echo", 1, lane=[])),  # type: ignore[arg-type]
    "model": ("model", lambda m: m.call("echo", 1, model=0)),  # type: ignore[arg-type]
    "long model": ("model", lambda m: m.call("echo", 1, model="x" * 201)),
    "model that is no text": ("model", lambda m: m.call("echo", 1, model="\udcff")),
    "at_most_once": ("at_most_once", lambda m: m.call("echo", 1, at_most_once="no")),  # type: ignore[arg-type]
    "wait_for_ready": ("wait_for_ready", lambda m: m.call("echo", 1, wait_for_ready=1)),  # type: ignore[arg-type]
    "cache": ("cache", lambda m: m.call("echo", 1, cache=None)),  # type: ignore[arg-type]
    "affinity": ("affinity", lambda m: m.call("echo", 1, affinity=5)),  # type: ignore[arg-type]
    "window": ("window", lambda m: m.stream("echo", 1, window=0)),
    "window of the wrong type": ("window", lambda m: m.stream("echo", 1, window=1.5)),  # type: ignore[arg-type]
    "no texts": ("texts", lambda m: m.embed([])),
    "texts of the wrong type": ("texts", lambda m: m.embed(5)),  # type: ignore[arg-type]
    "texts that are bytes": ("texts", lambda m: m.embed(b"abc")),  # type: ignore[arg-type]
    "normalize": ("normalize", lambda m: m.embed("a", normalize="yes")),  # type: ignore[arg-type]
    "ops": ("ops", lambda m: m.ready([])),
    "ops of the wrong type": ("ops", lambda m: m.ready(5)),  # type: ignore[arg-type]
    "a value that msgpack has not": ("body", lambda m: m.call("echo", {1, 2})),
    "a key that is no text": ("body", lambda m: m.call("echo", {"a": {1: 2}})),
    "an integer that is too large": ("body", lambda m: m.call("echo", 2**64)),
    "text that is no text": ("body", lambda m: m.call("echo", "\ud800")),
    "endpoint": ("endpoint", lambda m: Mesh("http://localhost:1")),
    "endpoint of the wrong type": ("endpoint", lambda m: Mesh(Path("/tmp"))),  # type: ignore[arg-type]
    "endpoint without a port": ("endpoint", lambda m: Mesh("tcp://localhost")),
    "port out of range": ("endpoint", lambda m: Mesh("tcp://localhost:70000")),
    "endpoint with too long a path": ("endpoint", lambda m: Mesh("ipc:///" + "x" * 200)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_an_invalid_request_that_names_it(mesh: Mesh, name: str) -> None:
    field, use = BAD[name]
    with pytest.raises(InvalidRequestError) as caught:
        use(mesh)
    assert caught.value.details["field"].split(".")[0].split("[")[0] == field
    assert field in caught.value.message
    assert isinstance(caught.value, ValueError)


def test_a_text_that_is_wrong_is_named_by_its_index(mesh: Mesh) -> None:
    for texts in (["a", ""], ["a", 5], ["a", "\ud800"], ["a", b"b"]):
        with pytest.raises(InvalidRequestError) as caught:
            mesh.embed(texts)  # type: ignore[arg-type]
        assert caught.value.details == {"field": "texts", "index": 1}


def test_what_is_too_large_is_told_before_it_is_sent(mesh: Mesh) -> None:
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(TooLargeError, match="nested deeper than 32"):
        mesh.call("echo", deep)
    with pytest.raises(TooLargeError, match="7 tensors, allowed are 6"):
        mesh.call("echo", [Tensor(b"", "uint8", (0,))] * 7)
    assert mesh.call("echo", 1) == 1


def test_a_body_over_the_limit_is_too_large(mesh: Mesh) -> None:
    with pytest.raises(TooLargeError, match="allowed are") as caught:
        mesh.call("echo", bytes(64 << 20), timeout=60.0)
    assert caught.value.details["field"] == "body"
    assert mesh.call("echo", 1, timeout=60.0) == 1


def test_interrupting_a_call_cancels_it(live: LiveMesh, mesh: Mesh) -> None:
    def interrupt() -> None:
        until(lambda: "begin interrupted" in said(live), "the call to begin")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        mesh.call("hang", "interrupted", timeout=20.0)
    interrupter.join()
    until(lambda: "cancel interrupted" in said(live), "the worker to stop")
