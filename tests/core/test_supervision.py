"""What the guard and operators want: lanes that pause for a time, draining by whom, memory given back."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.guard import GUARD_LEASE_S
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag, Lane
from tests.core.guard_words import CALM
from tests.core.harness import Client, Harness, Worker

LANES = (Lane.INTERACTIVE, Lane.STANDARD, Lane.BULK)


def tell(mesh: Harness, pause: str = "") -> None:
    mesh.feed(events.GuardTold(CALM, pause))


def beat(mesh: Harness, *peers: Worker | Client, seconds: int) -> None:
    """Let time pass in which these peers are heard of."""
    for _ in range(seconds):
        for peer in peers:
            if isinstance(peer, Worker):
                peer.beat()
            else:
                peer.say(messages.Ping(1))
        mesh.advance(1.0)


def lanes_of(worker: Worker) -> list[int]:
    return [job.lane for job in worker.jobs()]


def fields(mesh: Harness, event: str) -> list[dict[str, Any]]:
    return [dict(log.fields) for log in mesh.logs if log.event == event]


@pytest.mark.parametrize(("pause", "going"), [("", LANES), ("bulk", LANES[:2]), ("standard", LANES[:1])])
def test_a_pause_keeps_new_work_of_its_lane_and_below_from_local_workers(pause: str, going: tuple[Lane, ...]) -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=16), mesh.client()
    mesh.worker("loading", loading=True)
    tell(mesh, pause)
    for lane in reversed(LANES):
        client.request(lane=lane)
    assert list(reversed(going)) == lanes_of(worker)
    assert pause == mesh.core.status(mesh.now)["paused"]
    tell(mesh)
    assert sorted(set(LANES) - set(going)) == sorted(lanes_of(worker))
    assert {} == client.answers()


def test_a_pause_that_is_eased_lets_the_higher_lane_go_and_one_that_tightens_is_logged_too() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=16), mesh.client()
    for pause in ("bulk", "standard"):
        tell(mesh, pause)
        mesh.advance(1.0)
    for lane in LANES[1:]:
        client.request(lane=lane)
    assert [] == worker.jobs()
    tell(mesh, "bulk")
    assert [Lane.STANDARD] == lanes_of(worker)
    tell(mesh)
    assert [Lane.BULK] == lanes_of(worker)
    assert [{"lane": "bulk"}, {"lane": "standard"}, {"lane": "bulk"}] == fields(mesh, "admission_paused")
    assert [{"seconds": 2.0}] == fields(mesh, "admission_resumed")


def test_a_pause_ends_by_itself_when_the_guard_falls_silent() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    tell(mesh, "bulk")
    beat(mesh, worker, seconds=5)
    tell(mesh, "bulk")
    client.request(lane=Lane.BULK)
    beat(mesh, worker, client, seconds=9)
    assert [] == worker.jobs()
    assert 9.0 == mesh.core.status(mesh.now)["guard"]["age_s"]
    beat(mesh, worker, client, seconds=2)
    assert [Lane.BULK] == lanes_of(worker)
    status = mesh.core.status(mesh.now)
    assert (None, "") == (status["guard"], status["paused"])
    assert [{"seconds": GUARD_LEASE_S}] == fields(mesh, "guard_silent")
    assert [{"seconds": 15.0}] == [{"seconds": round(each["seconds"])} for each in fields(mesh, "admission_resumed")]
    tell(mesh)
    assert [{"pid": 7}] * 2 == fields(mesh, "guard_joined")


def test_requests_wait_with_their_deadlines_and_nothing_is_refused() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    tell(mesh, "standard")
    late, waiting = client.request(ms=1500), client.request()
    for _ in range(2):
        tell(mesh, "standard")
        beat(mesh, worker, client, seconds=1)
    assert {late: "DEADLINE_EXCEEDED"} == client.answers()
    tell(mesh)
    assert [waiting] == [job.request_id for job in worker.jobs()]


def test_a_broker_that_was_held_up_does_not_end_the_pause_for_it() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    mesh.feed(events.HeldUp(1.0))
    tell(mesh, "bulk")
    client.request(lane=Lane.BULK)
    mesh.now += 60
    mesh.feed(events.HeldUp(59.0))
    mesh.feed(events.Wakeup())
    worker.take()
    mesh.advance(GUARD_LEASE_S - 1.5)
    assert [] == worker.jobs()
    mesh.advance(1.0)
    assert mesh.logged("admission_resumed")


def test_bulk_work_goes_to_another_machine_meanwhile_though_its_workers_are_busier() -> None:
    mesh = Harness(prefetch=0)
    far, client = mesh.worker("far", slots=3, machine="elsewhere"), mesh.client()
    for _ in range(2):
        client.request()
    far.jobs()
    near = mesh.worker("near", slots=3)
    tell(mesh, "bulk")
    joined = mesh.worker("joined", slots=3)
    for _ in range(2):
        client.request(lane=Lane.BULK)
    assert [[Lane.BULK], [], []] == [lanes_of(each) for each in (far, near, joined)]
    client.request(lane=Lane.STANDARD)
    assert 1 == len(near.jobs() + joined.jobs())
    tell(mesh)
    assert [Lane.BULK] == lanes_of(near) + lanes_of(joined)


def test_bulk_work_goes_past_a_preferred_worker_whose_places_for_it_are_taken() -> None:
    mesh = Harness()
    far, client = mesh.worker("far", slots=2, bulk_slots=2, machine="elsewhere"), mesh.client()
    client.request()
    near = mesh.worker("near", slots=8, bulk_slots=1)
    for _ in range(3):
        client.request(lane=Lane.BULK)
    assert [[Lane.STANDARD, Lane.BULK, Lane.BULK], [Lane.BULK]] == [lanes_of(each) for each in (far, near)]


def test_work_that_was_taken_back_goes_on_in_any_lane() -> None:
    mesh = Harness()
    first, client = mesh.worker("first"), mesh.client()
    client.request(lane=Lane.BULK)
    (job,) = first.jobs()
    second = mesh.worker("second")
    tell(mesh, "standard")
    first.say(messages.Quiet(True))
    first.say(messages.Return(job.job_id, "draining"))
    assert [(Lane.BULK, 2)] == [(job.lane, job.attempt) for job in second.jobs()]


def test_whatever_happens_meanwhile_the_core_agrees_with_itself_and_all_is_answered_once() -> None:
    for seed in range(4):
        chance = Random(seed)
        mesh = Harness(client_max_outstanding=1000)
        client = mesh.client()
        workers = [
            mesh.worker(f"w{n}", slots=1 + n, bulk_slots=n % 3, machine=("here", "elsewhere")[n % 2]) for n in range(4)
        ]
        held: list[tuple[Worker, messages.Job]] = []
        asked: list[int] = []
        for _ in range(300):
            step = chance.random()
            if step < 0.5:
                asked.append(client.request(lane=chance.choice(LANES), affinity=chance.choice([b"", b"a", b"b"])))
            elif step < 0.6:
                tell(mesh, chance.choice(["", "bulk", "standard"]))
            elif held:
                worker, job = held.pop(chance.randrange(len(held)))
                worker.say(
                    messages.Return(job.job_id, "") if step < 0.65 else messages.Final(job.job_id, 1, 1, 1, 0),
                )
            held += [(worker, job) for worker in workers for job in worker.jobs()]
        tell(mesh)
        while held:
            worker, job = held.pop()
            worker.finish(job)
            held += [(each, job) for each in workers for job in each.jobs()]
        assert dict.fromkeys(asked, "OK") == client.answers()


def test_a_local_worker_is_asked_for_memory_and_told_when_it_is_short_no_more() -> None:
    mesh = Harness()
    near, far = mesh.worker("near"), mesh.worker("far", machine="elsewhere")
    near.take(), far.take()
    mesh.feed(events.TrimWorkers("*", 2))
    mesh.feed(events.TrimWorkers("near", 0))
    mesh.feed(events.TrimWorkers("far", 1))
    assert [messages.Trim(2), messages.Trim(0)] == [message for message, _ in near.take()]
    assert [] == far.take()


def drained_by(mesh: Harness) -> list[tuple[str, str]]:
    return [(each["state"], each["drained_by"]) for each in mesh.core.status(mesh.now)["workers"]]


def test_it_is_known_who_drained_a_worker_until_it_is_back() -> None:
    mesh = Harness()
    worker = mesh.worker()
    assert [("ready", "")] == drained_by(mesh)
    mesh.feed(events.Drain("w", True, "guard"))
    assert [("draining", "guard")] == drained_by(mesh)
    worker.say(messages.Quiet(True))
    assert [("draining", "guard")] == drained_by(mesh)
    mesh.feed(events.Drain("w", True))
    assert [("draining", "operator")] == drained_by(mesh)
    mesh.feed(events.Drain("w", True, "guard"))
    assert [("draining", "operator")] == drained_by(mesh)
    worker.say(messages.Quiet(False))
    assert [("ready", "")] == drained_by(mesh)
    worker.say(messages.Quiet(True))
    assert [("draining", "worker")] == drained_by(mesh)
    worker.returning()
    assert [("ready", "")] == drained_by(mesh)
    assert ["guard", "worker"] == [each["by"] for each in fields(mesh, "worker_draining")]


def test_a_guard_drains_workers_of_its_own_machine_only_whatever_others_are_called() -> None:
    mesh = Harness()
    near, far = mesh.worker("w"), mesh.worker("far", machine="elsewhere")
    far.describe(name="w")
    far.returning()
    near.take(), far.take()
    mesh.feed(events.Drain("w", True, "guard"))
    assert [("draining", "guard"), ("ready", "")] == drained_by(mesh)
    assert ([messages.Quiet(True)], []) == ([message for message, _ in near.take()], far.take())
    mesh.feed(events.Drain("w", True))
    assert [("draining", "operator")] * 2 == drained_by(mesh)
    mesh.feed(events.Drain("w", False, "guard"))
    assert [("draining", "operator")] * 2 == drained_by(mesh)


def test_a_worker_of_this_machine_can_be_meant_by_its_pid_whatever_others_are_called() -> None:
    mesh = Harness()
    near, far, other = mesh.worker("w"), mesh.worker("far", machine="elsewhere"), mesh.worker("w2")
    far.describe(name="w", pid=near.pid)
    far.returning()
    for on in (True, False):
        for each in (near, far, other):
            each.take()
        mesh.feed(events.Drain("*", on, pid=near.pid))
        told = [[message for message, _ in each.take()] for each in (near, far, other)]
        assert [[messages.Quiet(on)], [], []] == told


def test_a_worker_that_leaves_gets_no_work_though_it_is_told_to_serve_again() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    waiting = client.request(flags=Flag.WAIT_FOR_READY)
    (job,) = worker.jobs()
    mesh.feed(events.Drain("w", True, "guard"))
    worker.say(messages.Quiet(True))
    worker.say(messages.Return(job.job_id, "draining"))
    mesh.feed(events.Drain("w", False))
    assert [("draining", "worker")] == drained_by(mesh)
    worker.beat(draining=True)
    assert ([], [("draining", "worker")]) == (worker.jobs(), drained_by(mesh))
    worker.beat()  # It had said so on a new connection only, and was to be had again.
    assert [waiting] == [job.request_id for job in worker.jobs()]
    assert [("ready", "")] == drained_by(mesh)


def test_a_worker_that_drains_while_it_loads_is_loading_again_when_that_is_taken_back() -> None:
    mesh = Harness()
    worker, client = mesh.worker(loading=True), mesh.client()
    mesh.feed(events.Drain("w", True))
    mesh.feed(events.Drain("w", False))
    asked = client.request()
    assert ([], [("loading", "")]) == (worker.jobs(), drained_by(mesh))
    worker.returning()
    assert [asked] == [job.request_id for job in worker.jobs()]


def test_who_shares_a_computation_does_not_wait_in_a_lower_lane_than_its_own() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(pure=["echo"]), mesh.client()
    first = client.request(body=[b"1"], lane=Lane.INTERACTIVE)
    (job,) = worker.jobs()
    leader, bulk, follower = (client.request(lane=lane) for lane in (Lane.INTERACTIVE, Lane.BULK, Lane.INTERACTIVE))
    tell(mesh, "bulk")
    client.say(messages.Cancel(leader))
    worker.finish(job)
    (job,) = worker.jobs()
    assert follower == job.request_id
    worker.finish(job)
    assert {first: "OK", leader: "CANCELLED", bulk: "OK", follower: "OK"} == client.answers()
