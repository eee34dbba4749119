"""Bulk work leaves places free in every worker, and is not kept waiting for ever by what comes in them."""

from __future__ import annotations

import pytest

from mlx_mesh_wire import messages, pack_body
from mlx_mesh_wire.messages import Lane
from tests.core.harness import Harness


@pytest.mark.parametrize(("slots", "held"), [(1, 2), (3, 4), (4, 4), (8, 7), (32, 31)])
def test_bulk_work_takes_all_places_but_two_or_a_quarter_of_few_slots(slots: int, held: int) -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=slots), mesh.client()
    for _ in range(60):
        client.request(lane=Lane.BULK)
    assert held == len(worker.jobs())


def test_a_worker_may_say_itself_how_much_bulk_work_it_takes() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=8, bulk_slots=3), mesh.client()
    bulk = [client.request(lane=Lane.BULK) for _ in range(10)]
    jobs = worker.jobs()
    assert bulk[:3] == [job.request_id for job in jobs]
    urgent = [client.request(lane=Lane.STANDARD) for _ in range(7)]
    others = worker.jobs()
    assert urgent[:6] == [job.request_id for job in others]
    worker.finish(*others)
    others = worker.jobs()
    assert urgent[6:] == [job.request_id for job in others]
    worker.describe(bulk_slots=5)
    worker.returning()
    assert bulk[3:5] == [job.request_id for job in worker.jobs()]


def test_an_interactive_request_goes_at_once_past_bulk_work_that_waits() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=8), mesh.client()
    for _ in range(20):
        client.request(lane=Lane.BULK)
    worker.jobs()
    urgent = [client.request(lane=lane) for lane in (Lane.INTERACTIVE, Lane.STANDARD, Lane.INTERACTIVE)]
    assert urgent[:2] == [job.request_id for job in worker.jobs()]


def test_a_place_that_an_interactive_request_leaves_is_not_taken_by_bulk_work() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=8), mesh.client()
    for _ in range(20):
        client.request(lane=Lane.BULK)
    worker.jobs()
    for _ in range(5):
        urgent = client.request(lane=Lane.INTERACTIVE)
        (job,) = worker.jobs()
        assert urgent == job.request_id
        worker.finish(job)
        assert [] == worker.jobs()


def test_bulk_work_has_its_share_however_much_is_asked_in_the_other_lanes() -> None:
    mesh = Harness(client_max_outstanding=1000)
    worker, client = mesh.worker(slots=8), mesh.client()
    for _ in range(100):
        client.request(lane=Lane.INTERACTIVE)
    for _ in range(10):
        client.request(lane=Lane.BULK)
    done: list[int] = []
    waiting = worker.jobs()
    while len(done) < 48:
        worker.finish(waiting[0])
        done.append(waiting.pop(0).lane)
        waiting += worker.jobs()
    assert done.count(Lane.BULK) >= 3


def test_a_place_goes_to_bulk_work_when_it_holds_fewer_than_its_own() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=8), mesh.client()
    for _ in range(9):
        client.request(lane=Lane.BULK)
    first = worker.jobs()[0]
    worker.finish(first)
    assert [8] == [job.request_id for job in worker.jobs()]


def test_bulk_work_does_not_wait_for_the_worker_with_the_fewest_jobs_when_another_one_has_places_for_it() -> None:
    mesh = Harness()
    picky, broad, client = mesh.worker("picky", slots=8, bulk_slots=1), mesh.worker("broad", slots=8), mesh.client()
    bulk = [client.request(lane=Lane.BULK) for _ in range(10)]
    given = picky.jobs(), broad.jobs()
    assert (1, 7) == tuple(map(len, given))
    waiting = bulk[8:]
    broad.finish(given[1][0])
    assert waiting[:1] == [job.request_id for job in broad.jobs()]


def test_bulk_work_goes_into_the_place_of_a_shared_computation_that_is_of_a_higher_lane_now() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=4, pure=["echo"]), mesh.client()
    first = client.request(lane=Lane.BULK)
    bulk = [client.request(lane=Lane.BULK, body=pack_body(number)) for number in range(4)]
    shared = client.request(lane=Lane.STANDARD)
    assert [first, *bulk[:3]] == [job.request_id for job in worker.jobs()]
    client.say(messages.Cancel(first))
    assert bulk[3:] == [job.request_id for job in worker.jobs()]
    assert shared not in client.answers()
