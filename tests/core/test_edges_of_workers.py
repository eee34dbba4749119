"""Workers at the edges of their bounds: the last moment at which something still holds, and the order of what waits."""

from __future__ import annotations

import pytest

from mlx_mesh_broker.core import events, jobs
from mlx_mesh_broker.core.jobs import HOLDING_S
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import Harness, ping_until


def test_a_worker_that_is_passed_over_for_long_is_found_when_the_better_one_leaves() -> None:
    mesh = Harness()
    better, other = mesh.worker("better", slots=8), mesh.worker("other", models=("m",))
    client = mesh.client()
    client.request(model="m")
    for number in range(200):
        other.beat(warm=["m"] * (number % 2))
        client.request()
        (job,) = better.jobs()
        better.finish(job)
    better.say(messages.Quiet(True))
    other.take()
    client.request()
    assert 1 == len(other.jobs())


def test_a_preferred_worker_that_holds_one_job_more_is_not_clearly_busier() -> None:
    mesh = Harness()
    warm = mesh.worker("warm", slots=4)
    client = mesh.client()
    client.request(affinity=b"a")
    client.request(affinity=b"a")
    other = mesh.worker("other", slots=4, ops=("echo", "more"))
    client.request("more")
    other.take()
    client.request(affinity=b"a")
    assert [3, 0] == [len(warm.jobs()), len(other.jobs())]


def test_what_a_worker_no_longer_has_on_a_new_connection_is_nobodys_fault() -> None:
    mesh = Harness()
    worker = mesh.worker("w")
    mesh.client().request()
    worker.jobs()
    mesh.feed(events.WorkerUnreachable(worker.route))
    worker.route = b"another"
    worker.returning()
    (job,) = worker.jobs()
    assert (2, 0) == (job.attempt, job.flags & Flag.ALONE)


def test_what_a_worker_brought_along_is_kept_for_as_long_as_workers_keep_it() -> None:
    for late in (False, True):
        mesh = Harness(session_idle_s=600)
        client = mesh.client(last_epoch="epoch-0")
        holder = mesh.worker("holder", held=[(client.session, 1)])
        other = mesh.worker("other", slots=8)
        ping_until(mesh, HOLDING_S + 2 if late else HOLDING_S - 2, holder, other)
        client.request(flags=Flag.RESEND | Flag.AT_MOST_ONCE)
        assert (not late) == bool(holder.jobs())
        assert ({1: "WORKER_LOST"} if late else {}) == client.answers()


def test_the_table_of_what_workers_brought_along_takes_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HOLDINGS_MAX", 2)
    mesh = Harness()
    mesh.worker("holder", held=[(b"s" * 16, number) for number in (1, 2, 3)])
    assert 2 == len(mesh.core._state.holdings)


def test_a_beat_of_a_worker_that_gets_on_puts_its_stall_off() -> None:
    mesh = Harness(stall_s=10.0)
    worker = mesh.worker()
    mesh.client().request(ms=600_000)
    for moved in [*[False] * 8, True, *[False] * 9]:
        mesh.advance(1.0)
        worker.beat(moved=moved)
    assert 0 == mesh.counts["workers_stalled"]
    for _ in range(2):
        mesh.advance(1.0)
        worker.beat(moved=False)
    assert 1 == mesh.counts["workers_stalled"]


def test_models_that_a_worker_has_warmed_or_dropped_count_from_its_next_beat() -> None:
    mesh = Harness()
    a, b = (mesh.worker(name, models=("m", "n"), slots=4) for name in "ab")
    client = mesh.client()
    expected = []
    for warm, cold in ((a, b), (b, a), (a, b)):
        warm.beat(warm=["m"])
        cold.beat(warm=["n"])
        client.request(model="m")
        expected.append((len(warm.jobs()), len(cold.jobs())))
    assert [(1, 0)] * 3 == expected


def test_at_most_once_that_was_not_sent_before_runs_however_old_the_broker_is() -> None:
    mesh = Harness()
    worker = mesh.worker()
    ping_until(mesh, 20.0, worker)
    client = mesh.client()
    client.request(flags=Flag.AT_MOST_ONCE)
    assert 1 == len(worker.jobs())
    client.request(flags=Flag.AT_MOST_ONCE | Flag.RESEND)
    assert {2: "WORKER_LOST"} == client.answers()


def test_equal_workers_take_turns_by_when_they_were_last_given_something() -> None:
    mesh = Harness()
    workers = [mesh.worker(name) for name in "abc"]
    client = mesh.client()
    turns = []
    for _ in range(9):
        client.request()
        (taker,) = [worker for worker in workers if (jobs := worker.jobs()) and worker.finish(*jobs) is None]
        turns.append(workers.index(taker))
    assert turns[:3] * 3 == turns
    assert [0, 1, 2] == sorted(turns[:3])


def test_what_waits_for_a_worker_that_drains_waits_no_longer_than_for_one_that_is_gone() -> None:
    mesh = Harness(rejoin_s=5.0)
    worker = mesh.worker()
    client = mesh.client()
    for _ in range(3):
        client.request()
    worker.say(messages.Quiet(True))
    ping_until(mesh, 4.5, worker)
    assert {} == client.answers()
    ping_until(mesh, 1.0, worker)
    assert {3: "NO_WORKER"} == client.answers()
    worker.say(messages.Return(worker.jobs()[1].job_id, "draining"))
    assert 1 == mesh.counts["requeued"]


def test_work_of_a_lost_worker_goes_on_in_its_order_before_all_that_waits() -> None:
    mesh = Harness(rejoin_s=60.0)
    worker = mesh.worker(slots=3)
    client = mesh.client()
    for _ in range(6):
        client.request()
    worker.die(())
    heir = mesh.worker("heir", slots=6)
    assert [1, 2, 3, 4, 5, 6] == [job.request_id for job in heir.jobs()]


def test_a_place_that_a_returned_job_leaves_is_given_to_another_queue() -> None:
    mesh = Harness()
    both = mesh.worker("both", ops=("one", "two"))
    client = mesh.client()
    for op in ("one", "one", "two"):
        client.request(op)
    first, _ = both.jobs()
    other = mesh.worker("other", ops=("one",))
    both.say(messages.Return(first.job_id, "draining"))
    assert [1] == [job.request_id for job in other.jobs()]
    assert [3] == [job.request_id for job in both.jobs()]


def test_a_guard_that_means_all_workers_drains_those_of_its_machine_whoever_came_first() -> None:
    mesh = Harness()
    remote, local = mesh.worker("far", machine="there"), mesh.worker("near")
    mesh.feed(events.Drain("*", True, "guard", 0))
    assert ([], [messages.Quiet(True)]) == tuple(
        [message for message, _ in worker.take() if isinstance(message, messages.Quiet)] for worker in (remote, local)
    )


def test_a_worker_that_introduces_itself_again_has_been_heard() -> None:
    mesh = Harness(lost_s=5.0)
    worker = mesh.worker()
    mesh.advance(4.5)
    worker.returning()
    mesh.advance(4.0)
    assert 0 == mesh.counts["workers_lost"]
    mesh.advance(1.5)
    assert 1 == mesh.counts["workers_lost"]
