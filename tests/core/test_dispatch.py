"""How requests reach workers: late binding, lanes, fairness, choice of worker."""

from __future__ import annotations

from collections import Counter

import pytest

from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import BODY, Harness


def test_a_request_becomes_a_job_and_its_result_an_answer() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request(ms=2500, affinity=b"a")
    (job,) = worker.jobs()
    assert (client.session, request_id, "echo", 1) == (job.session, job.request_id, job.op, job.attempt)
    assert job.remaining_ms == 2500
    client.take()
    mesh.advance(0.25)
    worker.finish(job, body=[b"result"])
    ((final, frames),) = client.take()
    assert (request_id, 1, 0, 50, 0, 0) == tuple(final)
    assert list(frames) == [b"result"]


def test_a_worker_holds_its_slots_and_one_to_prefetch_and_the_rest_waits() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=2), mesh.client()
    for _ in range(5):
        client.request()
    jobs = worker.jobs()
    assert [job.request_id for job in jobs] == [1, 2, 3]
    worker.finish(jobs[0])
    assert [job.request_id for job in worker.jobs()] == [4]


def test_waiting_lanes_are_served_eight_to_three_to_one() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    client.request()
    (job,) = worker.jobs()
    lanes: dict[int, int] = {}
    for lane in (2, 1, 0):
        for _ in range(18):
            lanes[client.request(lane=lane)] = lane
    served = []
    for _ in range(24):
        worker.finish(job)
        (job,) = worker.jobs()
        served.append(lanes[job.request_id])
    assert Counter(served) == {0: 16, 1: 6, 2: 2}
    assert 2 in served[:12]


def test_clients_take_turns_within_a_lane_however_much_one_of_them_asks() -> None:
    mesh = Harness(prefetch=0)
    worker, greedy, modest = mesh.worker(), mesh.client("greedy"), mesh.client("modest")
    for _ in range(10):
        greedy.request()
    modest.request()
    modest.request()
    order = []
    jobs = worker.jobs()
    while jobs:
        order.append(jobs[0].session)
        worker.finish(jobs[0])
        jobs = worker.jobs()
    assert [greedy.session, greedy.session, modest.session, greedy.session, modest.session] == order[:5]
    assert len(order) == 12


def test_the_least_loaded_worker_for_its_slots_gets_the_job_and_then_the_one_used_longest_ago() -> None:
    mesh = Harness()
    small, large, client = mesh.worker("small", slots=1), mesh.worker("large", slots=4), mesh.client()
    for _ in range(4):
        client.request()
    assert (len(small.jobs()), len(large.jobs())) == (1, 3)
    client.request()
    assert len(large.jobs()) == 1


def test_idle_equals_are_used_in_turn() -> None:
    mesh = Harness()
    workers, client = [mesh.worker(f"w{i}") for i in range(3)], mesh.client()
    used = []
    for _ in range(6):
        client.request()
        for index, worker in enumerate(workers):
            for job in worker.jobs():
                used.append(index)
                worker.finish(job)
    assert [used.count(i) for i in range(3)] == [2, 2, 2]
    assert used[:3] == used[3:]


def test_a_warm_model_is_preferred_to_a_cold_one() -> None:
    mesh = Harness()
    client = mesh.client()
    cold = mesh.worker("cold", models=["a", "b"], slots=4)
    warm = mesh.worker("warm", models=["a", "b"], slots=4)
    cold.beat(warm=["b"])
    warm.beat(warm=["a"])
    for _ in range(3):
        client.request(model="a")
    assert (len(cold.jobs()), len(warm.jobs())) == (0, 3)
    warm.beat(warm=["a"])
    client.request(model="b")
    assert len(cold.jobs()) == 1


def test_affinity_keeps_a_conversation_on_its_worker_unless_that_is_clearly_busier() -> None:
    mesh = Harness()
    client = mesh.client()
    first, second = mesh.worker("first", slots=8), mesh.worker("second", slots=8)
    client.request(affinity=b"chat")
    home, other = (first, second) if first.jobs() else (second, first)
    other.take()
    for _ in range(2):
        client.request(affinity=b"chat")
    assert len(home.jobs()) == 2
    client.request(affinity=b"chat")
    assert len(other.jobs()) == 1


def test_affinity_to_a_full_or_unready_worker_is_set_aside() -> None:
    mesh = Harness(prefetch=0)
    client = mesh.client()
    first, second = mesh.worker("first"), mesh.worker("second")
    client.request(affinity=b"chat")
    home, other = (first, second) if first.jobs() else (second, first)
    client.request(affinity=b"chat")
    (moved,) = other.jobs()
    other.finish(moved)
    other.say(messages.Quiet(True))
    client.request(affinity=b"chat")
    assert [*home.jobs(), *other.jobs()] == []


def test_affinity_to_a_worker_without_the_op_is_set_aside() -> None:
    mesh = Harness()
    client = mesh.client()
    echo, embed = mesh.worker("echo"), mesh.worker("embed", ops=["embed"])
    client.request(affinity=b"chat")
    client.request("embed", affinity=b"chat")
    assert (len(echo.jobs()), len(embed.jobs())) == (1, 1)


def test_the_table_of_affinity_keys_is_bounded(monkeypatch: object) -> None:
    from mlx_mesh_broker.core import dispatch

    mesh = Harness(client_max_outstanding=10_000, queue_max_requests=10_000)
    mesh.worker(slots=64)
    client = mesh.client()
    old, dispatch.AFFINITY_MAX = dispatch.AFFINITY_MAX, 8
    try:
        for index in range(20):
            client.request(affinity=b"key%d" % index)
    finally:
        dispatch.AFFINITY_MAX = old
    assert len(mesh.core._state.affinity) == 8


def test_a_worker_of_several_ops_serves_their_queues_in_turn() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(ops=["a", "b"]), mesh.client()
    client.request("a")
    (job,) = worker.jobs()
    for op in ("a", "a", "b", "b"):
        client.request(op)
    order = []
    for _ in range(4):
        worker.finish(job)
        (job,) = worker.jobs()
        order.append(job.op)
    assert order == ["b", "a", "b", "a"]


def test_cancelling_a_queued_request_takes_it_out_and_a_running_one_frees_its_slot() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    running, queued, last = client.request(), client.request(), client.request()
    (job,) = worker.jobs()
    client.take()
    client.say(messages.Cancel(queued))
    client.say(messages.Cancel(running))
    client.say(messages.Cancel(12345))
    assert {running: "CANCELLED", queued: "CANCELLED"} == client.answers()
    cancel, following = (message for message, _ in worker.take())
    assert messages.Cancel(job.job_id) == cancel
    assert last == following.request_id
    worker.finish(job)
    assert mesh.counts["late_answers"] == 1
    assert client.answers() == {}


def test_a_request_that_expires_in_the_queue_or_at_a_worker_is_answered_and_cancelled() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    running, queued = client.request(ms=1000), client.request(ms=500)
    (job,) = worker.jobs()
    client.take()
    mesh.advance(0.4)
    assert client.answers() == {}
    mesh.advance(0.15)
    assert {queued: "DEADLINE_EXCEEDED"} == client.answers()
    mesh.advance(0.5)
    assert {running: "DEADLINE_EXCEEDED"} == client.answers()
    assert [messages.Cancel(job.job_id)] == [m for m, _ in worker.take() if isinstance(m, messages.Cancel)]


def test_a_returned_job_goes_to_another_worker_before_all_that_wait() -> None:
    mesh = Harness(prefetch=0)
    first, client = mesh.worker("first"), mesh.client()
    client.request()
    waiting = client.request()
    (job,) = first.jobs()
    first.say(messages.Quiet(True))
    first.say(messages.Return(job.job_id, "draining"))
    first.say(messages.Return(job.job_id, "draining"))
    second = mesh.worker("second")
    (again,) = second.jobs()
    assert (job.request_id, 2, 0) == (again.request_id, again.attempt, again.flags & Flag.ALONE)
    second.finish(again)
    assert [waiting] == [j.request_id for j in second.jobs()]
    assert mesh.counts["returned"] == 1


def test_a_request_that_no_worker_finishes_is_given_up() -> None:
    mesh = Harness(attempts_max=3)
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request()
    client.take()
    for _ in range(3):
        (job,) = worker.jobs()
        worker.say(messages.Return(job.job_id, "no"))
    assert {request_id: "WORKER_LOST"} == client.answers()


def test_an_engine_error_is_passed_on_with_its_details() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request()
    (job,) = worker.jobs()
    client.take()
    worker.say(messages.Error(job.job_id, "OUT_OF_MEMORY", "no room", True, 700), [b"details"])
    ((error, frames),) = client.take()
    assert messages.Error(request_id, "OUT_OF_MEMORY", "no room", True, 700) == error
    assert list(frames) == [b"details"]
    worker.say(messages.Error(job.job_id, "INTERNAL", "late", False, 0))
    worker.say(messages.Error(0, "PROTOCOL_ERROR", "what?", False, 0))
    assert (mesh.counts["late_answers"], mesh.counts["worker_complaints"]) == (1, 1)


def test_queues_for_ops_that_nobody_serves_are_bounded_and_idle_ones_are_dropped() -> None:
    from mlx_mesh_broker.core import state

    mesh = Harness()
    client = mesh.client()
    old, state.QUEUES_MAX = state.QUEUES_MAX, 4
    try:
        for index in range(12):
            client.say(messages.Cancel(client.request(f"m{index}", flags=Flag.WAIT_FOR_READY)))
        assert len(mesh.core._state.queues) <= 4
        client.take()
        for index in range(8):
            client.request(f"n{index}", flags=Flag.WAIT_FOR_READY)
        assert "OVERLOADED" in client.answers().values()
    finally:
        state.QUEUES_MAX = old


def test_the_body_is_passed_on_untouched() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    frames = [*BODY, b"buffer one", b"buffer two"]
    client.request(body=frames)
    ((_, sent),) = [(m, f) for m, f in worker.take() if isinstance(m, messages.Job)]
    assert frames == list(sent)


def test_outdated_entries_of_the_pool_are_thrown_away() -> None:
    mesh = Harness(client_max_outstanding=1000)
    worker, client = mesh.worker(slots=200), mesh.client()
    for _ in range(150):
        client.request()
    worker.finish(*worker.jobs())
    pool = mesh.core._state.queues["echo", ""].pool
    assert len(pool._heap) <= 68
    client.request()
    assert len(worker.jobs()) == 1


def test_a_pool_that_nobody_asks_keeps_nothing_of_workers_that_are_gone() -> None:
    mesh = Harness()
    gone, left = mesh.worker(), mesh.worker()
    pool = mesh.core._state.queues["echo", ""].pool
    gone.die()
    left.say(messages.Bye("drained"))
    assert not pool.workers
    assert not pool.stale


def test_a_request_that_waits_again_can_be_cancelled() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request()
    worker.die()
    client.take()
    client.say(messages.Cancel(request_id))
    assert {request_id: "CANCELLED"} == client.answers()


def test_an_idle_queue_is_dropped_with_its_alarm_but_not_one_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlx_mesh_broker.core import state

    monkeypatch.setattr(state, "QUEUES_MAX", 3)
    mesh = Harness()
    models = ["running", "new"]
    worker, client = mesh.worker(slots=4, models=models), mesh.client()
    client.request(model="running")
    client.say(messages.Cancel(client.request("nobody", flags=Flag.WAIT_FOR_READY)))
    client.request(model="new")
    assert {("echo", "running"), ("echo", "new")} == set(mesh.core._state.queues)
    client.take()
    worker.die()
    again = mesh.worker("again", slots=4, models=models)
    assert set(models) == {job.model for job in again.jobs()}
