"""What a suspect worker says first counts before it gets work again: it may say that it takes no more."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import Harness, Worker


def _suspect(mesh: Harness) -> Worker:
    worker = mesh.worker()
    mesh.advance(3.5)
    assert ["suspect"] == _states(mesh)
    worker.take()
    return worker


def _states(mesh: Harness) -> list[str]:
    return [worker["state"] for worker in mesh.core.status(mesh.now)["workers"]]


@pytest.mark.parametrize(
    ("message", "states"), [(messages.Quiet(True), ["draining"]), (messages.Bye("told to leave"), [])]
)
def test_a_suspect_that_says_that_it_leaves_gets_no_work(message: Any, states: list[str]) -> None:
    mesh = Harness(suspect_s=3, lost_s=5, rejoin_s=20)
    worker, client = _suspect(mesh), mesh.client()
    client.request(flags=Flag.AT_MOST_ONCE)
    worker.say(message)
    assert states == _states(mesh)
    assert [] == worker.jobs()
    assert {} == client.answers()
    other = mesh.worker("other")
    other.finish(*other.jobs())
    assert {1: "OK"} == client.answers()


@pytest.mark.parametrize(
    "message", [messages.Quiet(False), messages.Ping(1), messages.Beat(0, 0, False, [], [], {}, {})]
)
def test_a_suspect_that_says_anything_else_serves_again(message: Any) -> None:
    mesh = Harness(suspect_s=3, lost_s=5)
    worker, client = _suspect(mesh), mesh.client()
    client.request()
    worker.say(message)
    assert ["ready"] == _states(mesh)
    worker.finish(*worker.jobs())
    assert {1: "OK"} == client.answers()


def test_a_suspect_whose_answer_comes_gets_the_next_job() -> None:
    mesh = Harness(suspect_s=3, lost_s=5, prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    client.request()
    client.request()
    mesh.advance(3.5)
    worker.finish(*worker.jobs())
    worker.finish(*worker.jobs())
    assert {1: "OK", 2: "OK"} == client.answers()
