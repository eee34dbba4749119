"""What the core counts and tells of itself: each figure after events that everybody can count."""

from __future__ import annotations

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.pool import AFFINITY_DIFFERENCE
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import BODY, Harness


def test_a_result_tells_how_long_its_request_waited_and_the_worker_computed() -> None:
    mesh = Harness()
    client = mesh.client()
    client.request(ms=60_000, flags=Flag.WAIT_FOR_READY)
    mesh.advance(4.0)
    worker = mesh.worker()
    (job,) = worker.jobs()
    mesh.advance(1.0)
    client.take()
    worker.finish(job)
    ((final, _),) = client.take()
    assert messages.Final(1, 1, 4_000_000, 50, 0) == final


def test_a_job_of_what_is_no_stream_has_no_window_and_the_time_that_is_left() -> None:
    mesh = Harness()
    worker = mesh.worker()
    mesh.client().request(ms=2500, affinity=b"warm")
    (job,) = worker.jobs()
    assert (0, 0, 2500, 1, b"warm") == (job.window, job.seen, job.remaining_ms, job.attempt, job.affinity)


def test_malformed_messages_and_strangers_are_counted_one_by_one() -> None:
    mesh = Harness()
    client, worker = mesh.client(), mesh.worker()
    for count in (1, 2):
        mesh.feed(events.BadClientMessage(client.route, "nonsense", 0, "PROTOCOL_ERROR"))
        mesh.feed(events.BadWorkerMessage(worker.route, "nonsense"))
        mesh.feed(events.FromWorker(b"stranger", messages.Ping(1), ()))
        mesh.feed(events.FromClient(b"stranger", messages.Ping(1), ()))
        counts = mesh.counts
        assert (count, count, 2 * count) == (counts["malformed_client"], counts["malformed_worker"], counts["resets"])


def test_a_returned_job_is_counted_and_its_place_given_to_what_waits() -> None:
    mesh = Harness()
    worker = mesh.worker()
    client = mesh.client()
    for _ in range(3):
        client.request()
    first, second = worker.jobs()
    worker.say(messages.Return(first.job_id, "draining"))
    assert 1 == mesh.counts["returned"]
    assert [first.request_id] == [job.request_id for job in worker.jobs()]
    worker.say(messages.Return(99, "draining"))
    assert (1, 1) == (mesh.counts["returned"], mesh.counts["late_answers"])
    assert second.request_id != first.request_id


def test_lost_workers_are_counted_and_those_that_leave_are_not() -> None:
    mesh = Harness()
    leaver, dead = mesh.worker("a"), mesh.worker("b")
    leaver.say(messages.Bye("drained"))
    assert 0 == mesh.counts["workers_lost"]
    dead.die()
    assert 1 == mesh.counts["workers_lost"]
    assert ["drained", "its process"] == [
        dict(log.fields)["reason"][:11] for log in mesh.logs if log.event == "worker_gone"
    ]


def test_a_worker_that_joins_is_told_with_what_it_serves() -> None:
    mesh = Harness()
    mesh.worker("a", ops=("echo", "embed"), slots=3)
    (joined,) = [dict(log.fields) for log in mesh.logs if log.event == "worker_joined"]
    assert ("echo,embed", 3) == (joined["ops"], joined["slots"])


def test_a_stalled_worker_is_counted_once_and_only_what_it_computed_is_suspect() -> None:
    mesh = Harness(stall_s=10.0)
    worker = mesh.worker(slots=2)
    client = mesh.client()
    client.request(ms=600_000)
    client.request(ms=600_000)
    running, waiting = worker.jobs()
    for _ in range(12):
        mesh.advance(1.0)
        worker.beat(moved=False, running=[running.job_id, 999])
    assert 1 == mesh.counts["workers_stalled"]
    refuge = mesh.worker("b", slots=4)
    alone = {job.request_id: bool(job.flags & Flag.ALONE) for job in refuge.jobs()}
    assert {running.request_id: True, waiting.request_id: False} == alone


def test_a_worker_that_loads_is_lost_at_its_cap_and_not_before() -> None:
    mesh = Harness()
    worker = mesh.worker(loading=True, load_max_ms=8000)
    for _ in range(7):
        mesh.advance(1.0)
        worker.say(messages.Ping(1))
    assert 0 == mesh.counts["workers_lost"]
    mesh.advance(1.0)
    assert 1 == mesh.counts["workers_lost"]


def test_ages_are_told_in_seconds_to_a_thousandth() -> None:
    mesh = Harness()
    worker = mesh.worker()
    mesh.advance(0.98765)
    (told,) = mesh.core.status(mesh.now)["workers"]
    assert (0.988, 0.988, False) == (told["uptime_s"], told["heard_s"], told["remote"])
    worker.say(messages.Ping(1))
    (told,) = mesh.core.status(mesh.now)["workers"]
    assert (0.988, 0.0) == (told["uptime_s"], told["heard_s"])


def test_a_suspect_finds_refuge_with_the_worker_of_the_least_load_for_its_slots() -> None:
    mesh = Harness()
    first = mesh.worker("first")
    client = mesh.client()
    client.request(ms=600_000)
    small, large = mesh.worker("small", slots=1), mesh.worker("large", slots=8)
    for _ in range(2):
        client.request(ms=600_000)
    loads = {worker: len(worker.jobs()) for worker in (small, large)}
    first.die(None)
    chosen = next(worker for worker in (small, large) if worker.jobs())
    assert chosen is (small if loads[small] == 0 else large)


def test_affinity_holds_up_to_a_difference_and_is_set_aside_beyond_it() -> None:
    mesh = Harness()
    warm = mesh.worker("warm", slots=16)
    client = mesh.client()
    client.request(affinity=b"a")
    mesh.worker("other", slots=16)
    placed = [client.request(affinity=b"a") for _ in range(AFFINITY_DIFFERENCE)]
    assert 1 + len(placed) == len(warm.jobs())
    client.request(affinity=b"a")
    assert [] == warm.jobs()


def test_a_reader_that_has_room_again_is_not_starved() -> None:
    mesh = Harness()
    worker = mesh.worker()
    client = mesh.client()
    client.request(window=1, ms=600_000)
    (job,) = worker.jobs()
    worker.say(messages.Chunk(job.job_id, 0), BODY)
    for _ in range(8):
        mesh.advance(1.0)
        worker.beat()
        client.say(messages.Ping(1))
    client.say(messages.Credit(1, 1))
    for _ in range(8):
        mesh.advance(1.0)
        worker.beat()
        client.say(messages.Ping(1))
    assert {} == client.answers()


def test_the_time_in_which_the_broker_was_held_up_is_no_silence_of_the_guard() -> None:
    mesh = Harness()
    before = mesh.counts["held_up"]
    mesh.feed(events.HeldUp(2.5))
    assert before + 1 == mesh.counts["held_up"]
    assert [2.5] == [dict(log.fields)["seconds"] for log in mesh.logs if log.event == "broker_was_held_up"]


def test_work_of_a_worker_that_says_goodbye_is_run_elsewhere_without_suspicion() -> None:
    mesh = Harness()
    leaver = mesh.worker("leaver")
    mesh.client().request()
    leaver.jobs()
    leaver.say(messages.Bye("hurry"))
    (job,) = mesh.worker("heir").jobs()
    assert (2, 0) == (job.attempt, job.flags & Flag.ALONE)


def test_affinity_is_set_aside_only_where_the_ratio_is_clear_too() -> None:
    mesh = Harness()
    warm = mesh.worker("warm", slots=32)
    client = mesh.client()
    for _ in range(12):
        client.request(affinity=b"a")
    other = mesh.worker("other", slots=32, ops=("echo", "more"))
    for _ in range(8):
        client.request("more")
    warm.jobs()
    other.jobs()
    client.request(affinity=b"a")
    assert [1, 0] == [len(warm.jobs()), len(other.jobs())], "13 to 8 is not clear"
    client.request(affinity=b"a")
    assert [0, 1] == [len(warm.jobs()), len(other.jobs())]


def test_a_client_that_is_heard_is_not_pinged() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client()
    client.request(ms=600_000)
    client.take()
    for _ in range(10):
        mesh.advance(0.5)
        client.say(messages.Pong(0))
    assert [] == client.take()
