"""A broker that was itself held up, and workers that load once more: time is counted from where it began to count."""

from __future__ import annotations

from mlx_mesh_broker.core import events
from mlx_mesh_wire import messages
from tests.core.harness import Harness, Worker


def _states(mesh: Harness) -> list[str]:
    return [worker["state"] for worker in mesh.core.status(mesh.now)["workers"]]


def _beats(mesh: Harness, worker: Worker, seconds: int) -> None:
    for _ in range(seconds):
        mesh.advance(1.0)
        worker.beat()


def test_a_worker_that_loads_is_not_judged_for_the_time_in_which_the_broker_did_not_run() -> None:
    mesh = Harness(load_max_s=10)
    worker = mesh.worker(loading=True)
    _beats(mesh, worker, 8)
    mesh.now += 60.0
    mesh.feed(events.HeldUp(60.0))
    mesh.feed(events.Wakeup())
    assert ["loading"] == _states(mesh)
    _beats(mesh, worker, 1)
    assert ["loading"] == _states(mesh)
    _beats(mesh, worker, 2)
    assert [] == _states(mesh)


def test_a_worker_that_loads_once_more_has_its_whole_time_for_it() -> None:
    mesh = Harness(load_max_s=10)
    worker = mesh.worker(loading=True)
    _beats(mesh, worker, 5)
    worker.returning()
    _beats(mesh, worker, 100)
    worker.returning(loading=True)
    _beats(mesh, worker, 5)
    worker.returning(loading=True)  # said again, as after a RESET, it begins no new time
    _beats(mesh, worker, 4)
    assert ["loading"] == _states(mesh)
    _beats(mesh, worker, 2)
    assert [] == _states(mesh)


def test_a_reader_is_not_judged_for_the_time_in_which_the_broker_did_not_run() -> None:
    mesh = Harness(credit_s=10, ping_s=1, stall_s=1000, lost_s=1000, suspect_s=900)
    worker, client = mesh.worker(ops=("text",)), mesh.client()
    client.request("text", window=1, ms=600_000)
    (job,) = worker.jobs()
    worker.say(messages.Chunk(job.job_id, 0), (b"token",))
    mesh.advance(8.0)
    client.take()
    mesh.now += 60.0
    mesh.feed(events.HeldUp(60.0))
    mesh.feed(events.Wakeup())
    mesh.advance(1.0)
    assert {} == client.answers()
    mesh.advance(2.0)
    assert {1: "SLOW_CONSUMER"} == client.answers()
