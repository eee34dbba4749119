"""The life of workers: joining, beating, falling silent, stalling, draining, dying, coming back."""

from __future__ import annotations

import pytest

from mlx_mesh_broker.core import events, jobs, workers
from mlx_mesh_broker.core.lifecycle import TRANSITIONS, Turn, WorkerState, next_state
from mlx_mesh_broker.core.pool import REFUGE_EXTRA
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import BODY, Harness, Worker


def state_of(mesh: Harness, worker: Worker) -> str | None:
    for each in mesh.core.status(mesh.now)["workers"]:
        if each["pid"] == worker.pid:
            return str(each["state"])
    return None


def test_a_worker_is_welcomed_and_watched() -> None:
    mesh = Harness()
    worker = mesh.worker()
    ((welcome, _),) = worker.take()
    assert (welcome.epoch, welcome.intervals["lost_ms"]) == ("epoch-1", 5000)
    assert worker.pid == mesh.watched[worker.instance].pid


def test_another_major_version_is_turned_away() -> None:
    mesh = Harness()
    worker = mesh.worker()
    worker.take()
    worker.route, worker.instance = b"other", b"o" * 16
    worker.say(messages.Ready(2, *worker.fields[1:2], b"o" * 16, *worker.fields[3:]))
    error, bye = (message for message, _ in worker.take())
    assert "protocol 1" in error.message
    assert "2" in error.message
    assert isinstance(bye, messages.Bye)


def test_an_unknown_worker_is_asked_to_introduce_itself_unless_it_says_goodbye() -> None:
    mesh = Harness()
    mesh.feed(events.FromWorker(b"stranger", messages.Beat(1, 0, False, [], [], {}, {}), ()))
    mesh.feed(events.FromWorker(b"stranger", messages.Bye(""), ()))
    assert [messages.Reset("epoch-1")] == [m for m, _ in mesh.to_workers[b"stranger"]]


def test_what_is_not_for_workers_to_send_and_what_is_malformed_is_answered_with_an_error_once_a_second() -> None:
    mesh = Harness()
    worker = mesh.worker()
    worker.take()
    worker.say(messages.Status(1))
    mesh.feed(events.BadWorkerMessage(worker.route, "too soon to be told"))
    ((first, _),) = worker.take()
    assert "Status is not for workers" in first.message
    mesh.advance(1.1)
    mesh.feed(events.BadWorkerMessage(worker.route, "nonsense"))
    ((second, _),) = worker.take()
    assert (second.id, second.message) == (0, "nonsense")
    assert state_of(mesh, worker) == "ready"


def test_pings_are_answered_and_pongs_are_heard() -> None:
    mesh = Harness()
    worker = mesh.worker()
    worker.take()
    worker.say(messages.Ping(7))
    worker.say(messages.Pong(8))
    assert [messages.Pong(7)] == [m for m, _ in worker.take()]


def test_silence_makes_a_worker_suspect_and_a_word_from_it_brings_it_back() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    mesh.advance(3.5)
    assert state_of(mesh, worker) == "suspect"
    request_id = client.request()
    assert worker.jobs() == []
    worker.beat()
    assert state_of(mesh, worker) == "ready"
    assert [request_id] == [job.request_id for job in worker.jobs()]


def test_long_silence_means_lost_and_the_work_goes_elsewhere() -> None:
    mesh = Harness(prefetch=0)
    first, client = mesh.worker("first"), mesh.client()
    request_id = client.request()
    (job,) = first.jobs()
    second = mesh.worker("second")
    for _ in range(6):
        second.beat()
        client.say(messages.Ping(1))
        mesh.advance(1.0)
    assert state_of(mesh, first) is None
    (again,) = second.jobs()
    assert (request_id, 2) == (again.request_id, again.attempt)
    assert job.job_id != again.job_id
    assert mesh.logged("worker_lost")
    first.finish(job)
    assert messages.Reset("epoch-1") in [m for m, _ in first.take()]


def test_a_remote_worker_is_given_more_time() -> None:
    mesh = Harness()
    near, far = mesh.worker("near"), mesh.worker("far", machine="elsewhere")
    mesh.advance(8)
    assert [state_of(mesh, near), state_of(mesh, far)] == [None, "suspect"]
    mesh.advance(8)
    assert state_of(mesh, far) is None


def test_a_worker_may_load_for_as_long_as_it_said() -> None:
    mesh = Harness(load_max_s=60)
    quick, slow = mesh.worker("quick", loading=True, load_max_ms=3000), mesh.worker("slow", loading=True)
    for _ in range(61):
        quick.beat()
        slow.beat()
        mesh.advance(1.0)
        if mesh.now < 102.5:
            assert state_of(mesh, quick) == "loading"
        elif 105 < mesh.now < 150:
            assert (state_of(mesh, quick), state_of(mesh, slow)) == (None, "loading")
    assert state_of(mesh, slow) is None


def test_a_dead_process_is_replaced_at_once_and_its_innocent_jobs_carry_no_mark() -> None:
    mesh = Harness()
    first, client = mesh.worker("first", slots=2), mesh.client()
    guilty, innocent = client.request(), client.request()
    jobs = first.jobs()
    second = mesh.worker("second", slots=4)
    first.die(running=[jobs[0].job_id])
    flags = {job.request_id: job.flags & Flag.ALONE for job in second.jobs()}
    assert {guilty: Flag.ALONE, innocent: 0} == flags
    assert first.instance not in mesh.watched


def test_without_a_record_every_job_of_a_dead_worker_is_a_suspect() -> None:
    mesh = Harness()
    first, client = mesh.worker("first", slots=2), mesh.client()
    client.request()
    client.request()
    second = mesh.worker("second", slots=4)
    first.die(running=None)
    assert [job.flags & Flag.ALONE for job in second.jobs()] == [Flag.ALONE] * 2


def test_a_suspect_is_tried_at_once_on_a_worker_whose_places_are_taken() -> None:
    mesh = Harness(prefetch=0)
    client = mesh.client()
    first, second = mesh.worker("first"), mesh.worker("second")
    suspect, running, waiting = client.request(), client.request(), client.request()
    (job,) = first.jobs()
    (busy,) = second.jobs()
    first.die(running=[job.job_id])
    assert [(suspect, Flag.ALONE)] == [(again.request_id, again.flags) for again in second.jobs()]
    second.finish(busy)
    assert second.jobs() == []
    assert [(running, "OK")] == list(client.answers().items())
    assert waiting


def test_a_worker_takes_no_more_than_a_few_suspects_beyond_its_places() -> None:
    mesh = Harness(prefetch=0)
    client = mesh.client()
    first, second = mesh.worker("first", slots=12), mesh.worker("second", slots=12)
    for _ in range(24):
        client.request()
    kept, lost = second.jobs(), first.jobs()
    assert [12, 12] == [len(kept), len(lost)]
    first.die(running=None)
    suspects = second.jobs()
    assert len(suspects) == REFUGE_EXTRA
    for job in [*kept[:8], *suspects]:
        second.finish(job)
    assert len(second.jobs()) == 12 - REFUGE_EXTRA


def test_workers_of_this_machine_are_found_by_pid_and_one_that_is_gone_may_be_said_to_have_ended() -> None:
    mesh = Harness()
    worker, namesake = mesh.worker(), mesh.worker("namesake")
    far = mesh.worker("far", machine="elsewhere")
    namesake.describe(pid=worker.pid, pid_start=8)
    namesake.returning()
    assert [(worker.instance, 7), (namesake.instance, 8)] == mesh.core.processes_of(worker.pid)
    assert [] == mesh.core.processes_of(far.pid)
    worker.die()
    worker.die()
    assert [(namesake.instance, 8)] == mesh.core.processes_of(worker.pid)
    assert ["far", "namesake"] == [each["name"] for each in mesh.core.status(mesh.now)["workers"]]


def test_a_request_that_kills_two_workers_is_quarantined_and_does_not_get_a_third() -> None:
    mesh = Harness()
    client, other = mesh.client(), mesh.client("other")
    request_id = 0
    for index in range(2):
        worker = mesh.worker(f"w{index}")
        request_id = request_id or client.request()
        (job,) = worker.jobs()
        client.take() if index == 0 else None
        worker.die(running=[job.job_id])
    third = mesh.worker("third")
    assert {request_id: "POISON_REQUEST"} == client.answers()
    assert third.jobs() == []
    other.take()
    again = other.request()
    assert {again: "POISON_REQUEST"} == other.answers()
    innocent = other.request(body=[b"something else"])
    assert [innocent] == [job.request_id for job in third.jobs()]
    mesh.advance(0.1)
    assert mesh.logged("request_quarantined")


def test_quarantine_ends_and_is_bounded() -> None:
    from mlx_mesh_broker.core import sharing

    mesh = Harness(deaths_max=1, quarantine_s=100)
    client = mesh.client()
    old, sharing.QUARANTINE_MAX = sharing.QUARANTINE_MAX, 3
    try:
        for index in range(5):
            worker = mesh.worker(f"w{index}")
            client.request(body=[b"poison %d" % index])
            (job,) = worker.jobs()
            worker.die(running=[job.job_id])
    finally:
        sharing.QUARANTINE_MAX = old
    assert len(mesh.core._state.quarantine) == 3
    for _ in range(30):
        client.say(messages.Ping(1))
        mesh.advance(4)
    worker = mesh.worker("last")
    client.request(body=[b"poison 4"])
    assert len(worker.jobs()) == 1
    assert len(mesh.core._state.quarantine) == 0


def test_at_most_once_is_not_run_again_after_a_death_but_is_when_it_was_returned() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=2), mesh.client()
    lost, returned = (client.request(flags=Flag.AT_MOST_ONCE) for _ in range(2))
    jobs = worker.jobs()
    worker.say(messages.Return(jobs[1].job_id, "draining"))
    worker.take()
    worker.die(running=[])
    assert {lost: "WORKER_LOST", returned: "WORKER_LOST"} == client.answers()


def test_at_most_once_that_was_returned_runs_elsewhere() -> None:
    mesh = Harness()
    first, client = mesh.worker("first"), mesh.client()
    client.request(flags=Flag.AT_MOST_ONCE)
    (job,) = first.jobs()
    second = mesh.worker("second")
    first.say(messages.Quiet(True))
    first.say(messages.Return(job.job_id, "draining"))
    assert len(second.jobs()) == 1


def test_no_progress_with_work_held_means_stalled_and_progress_ends_it() -> None:
    mesh = Harness(stall_s=30)
    first, client = mesh.worker("first"), mesh.client()
    mesh.worker("idle", ops=["other"])
    request_id = client.request()
    (job,) = first.jobs()
    for _ in range(31):
        first.beat(moved=False, running=[job.job_id])
        client.say(messages.Ping(1))
        mesh.advance(1.0)
    assert state_of(mesh, first) == "stalled"
    assert [messages.Dump("no progress for 30.0 s with 1 jobs"), messages.Cancel(job.job_id)] == [
        message for message, _ in first.take()
    ]
    second = mesh.worker("second")
    (again,) = second.jobs()
    assert (request_id, Flag.ALONE) == (again.request_id, again.flags & Flag.ALONE)
    first.beat()
    assert state_of(mesh, first) == "ready"


def test_a_busy_worker_that_advances_is_not_stalled() -> None:
    mesh = Harness(stall_s=5)
    worker, client = mesh.worker(), mesh.client()
    client.request()
    for _ in range(20):
        worker.beat()
        client.say(messages.Ping(1))
        mesh.advance(1.0)
    assert state_of(mesh, worker) == "ready"


def test_a_worker_that_waits_for_readers_only_is_not_stalled_until_one_of_them_reads() -> None:
    mesh = Harness(stall_s=4, credit_s=30)
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request(window=1)
    (job,) = worker.jobs()
    worker.say(messages.Chunk(job.job_id, 0), BODY)

    def wait(seconds: int) -> str:
        for _ in range(seconds):
            worker.beat(moved=False)
            client.say(messages.Ping(1))
            mesh.advance(1.0)
        return state_of(mesh, worker)

    assert wait(11) == "ready"
    client.say(messages.Credit(request_id, 1))
    assert wait(3) == "ready", "it has been computing for so long only"
    assert wait(2) == "stalled"


def test_a_draining_worker_gets_nothing_new_and_leaves_without_loss() -> None:
    mesh = Harness(prefetch=0)
    first, second, client = mesh.worker("first"), mesh.worker("second"), mesh.client()
    requests = [client.request(), client.request()]
    (mine,) = first.jobs()
    second.jobs()
    first.say(messages.Quiet(True))
    client.request()
    assert first.jobs() == []
    first.finish(mine)
    assert first.jobs() == []
    first.say(messages.Bye("drained"))
    assert state_of(mesh, first) is None
    assert requests[0] in client.answers()


def test_an_operator_drains_a_worker_and_brings_it_back() -> None:
    mesh = Harness()
    worker, other, client = mesh.worker("w"), mesh.worker("other"), mesh.client()
    worker.take()
    mesh.feed(events.Drain("w", True))
    assert [messages.Quiet(True)] == [m for m, _ in worker.take()]
    assert [state_of(mesh, worker), state_of(mesh, other)] == ["draining", "ready"]
    mesh.feed(events.Drain("*", True))
    request_id = client.request()
    mesh.feed(events.Drain("w", False))
    assert request_id in [job.request_id for job in worker.jobs()]


def test_a_worker_may_stop_draining_by_itself() -> None:
    mesh = Harness()
    worker = mesh.worker()
    worker.say(messages.Quiet(True))
    worker.say(messages.Quiet(False))
    assert state_of(mesh, worker) == "ready"


def test_an_unreachable_worker_gets_no_work_until_it_is_back_on_a_new_connection() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=4), mesh.client()
    held, lost = client.request(), client.request()
    jobs = worker.jobs()
    mesh.feed(events.WorkerUnreachable(worker.route))
    mesh.feed(events.WorkerUnreachable(b"nobody"))
    assert state_of(mesh, worker) == "suspect"
    waiting = client.request()
    worker.route = b"new-route"
    worker.returning([(client.session, held)])
    assert state_of(mesh, worker) == "ready"
    again = {job.request_id: job for job in worker.jobs()}
    assert {held, lost, waiting} == set(again)
    assert (Flag.RESEND, 0, 0) == tuple(again[each].flags for each in (held, lost, waiting))
    client.take()
    worker.finish(jobs[0])  # of the old connection: whether it came through or not, the job is asked for again
    assert {} == client.answers()
    worker.finish(again[held])
    assert {held: "OK"} == client.answers()


def test_a_worker_on_a_new_connection_is_welcomed_before_it_gets_jobs() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=4), mesh.client()
    held = client.request()
    client.request()
    worker.take()
    worker.route = b"new-route"
    worker.returning([(client.session, held)])
    kinds = [type(message) for message, _ in worker.take()]
    assert kinds[0] is messages.Welcome
    assert 2 == kinds.count(messages.Job)


def test_at_most_once_that_a_worker_no_longer_holds_is_not_run_again() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request(flags=Flag.AT_MOST_ONCE)
    worker.jobs()
    worker.route = b"new-route"
    worker.returning()
    assert worker.jobs() == []
    assert {request_id: "WORKER_LOST"} == client.answers()


def test_an_engine_error_of_at_most_once_is_not_to_be_retried() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    client.request(flags=Flag.AT_MOST_ONCE)
    client.request()
    client.take()
    for job in worker.jobs():
        worker.say(messages.Error(job.job_id, "OUT_OF_MEMORY", "later", True, 50))
    assert [False, True] == [message.retryable for message, _ in client.take()]


def test_ready_again_takes_over_other_ops() -> None:
    mesh = Harness()
    worker, client = mesh.worker(ops=["a"]), mesh.client()
    fields = list(worker.fields)
    fields[8] = ["b"]
    worker.fields = tuple(fields)
    worker.returning()
    client.request("b")
    assert [job.op for job in worker.jobs()] == ["b"]
    worker.returning(loading=True)
    assert state_of(mesh, worker) == "loading"


def test_a_new_epoch_binds_resent_requests_to_the_worker_that_holds_them() -> None:
    mesh = Harness()
    client = mesh.client(last_epoch="epoch-0")
    holder, other = mesh.worker("holder", held=[(client.session, 5)]), mesh.worker("other")
    client.request(request_id=5, flags=Flag.RESEND)
    assert ([job.request_id for job in holder.jobs()], other.jobs()) == ([5], [])


def test_a_request_that_came_before_its_holder_is_bound_when_the_holder_arrives() -> None:
    mesh = Harness(prefetch=0)
    client = mesh.client(last_epoch="epoch-0")
    client.request(request_id=5, flags=Flag.RESEND)
    client.request(request_id=6, flags=Flag.RESEND | Flag.AT_MOST_ONCE)
    holder = mesh.worker("holder", held=[(client.session, 5), (client.session, 6), (b"x" * 16, 9)])
    assert {5, 6} == {job.request_id for job in holder.jobs()}


def test_what_a_worker_brought_along_is_bound_in_the_order_in_which_it_holds_it() -> None:
    mesh = Harness()
    client = mesh.client(last_epoch="epoch-0")
    ids = [7, 3, 19, 1, 12, 5, 30, 2]
    for request_id in sorted(ids):
        client.request(request_id=request_id, flags=Flag.RESEND | Flag.AT_MOST_ONCE)
    holder = mesh.worker("holder", held=[(client.session, request_id) for request_id in ids])
    assert ids == [job.request_id for job in holder.jobs()]


def test_a_held_request_that_runs_elsewhere_already_is_left_there() -> None:
    mesh = Harness()
    first, client = mesh.worker("first"), mesh.client(last_epoch="epoch-0")
    client.request(request_id=5, flags=Flag.RESEND)
    second = mesh.worker("second", held=[(client.session, 5)])
    assert (len(first.jobs()), len(second.jobs())) == (1, 0)


def test_at_most_once_resent_to_a_new_epoch_waits_for_its_holder_and_no_longer() -> None:
    mesh = Harness(rejoin_s=5)
    mesh.worker()
    client = mesh.client(last_epoch="epoch-0")
    client.request(request_id=5, flags=Flag.RESEND | Flag.AT_MOST_ONCE)
    client.request(request_id=6, flags=Flag.RESEND | Flag.AT_MOST_ONCE)
    client.say(messages.Cancel(6))
    assert client.answers() == {6: "CANCELLED"}
    mesh.advance(11)
    assert client.answers() == {5: "WORKER_LOST"}
    client.request(request_id=7, flags=Flag.RESEND | Flag.AT_MOST_ONCE)
    assert client.answers() == {7: "WORKER_LOST"}


def test_holdings_nobody_asks_for_are_forgotten_with_time_or_with_their_worker() -> None:
    mesh = Harness()
    one = mesh.worker("one", held=[(b"a" * 16, 1)])
    two = mesh.worker("two", held=[(b"b" * 16, 1)])
    one.die()
    assert list(mesh.core._state.holdings) == [(b"b" * 16, 1)]
    for _ in range(40):
        two.beat()
        mesh.advance(1)
    assert mesh.core._state.holdings == {}


def test_tables_filled_by_workers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Harness()
    monkeypatch.setattr(workers, "WORKERS_MAX", 2)
    monkeypatch.setattr(workers, "PENDING_MAX", 2)
    monkeypatch.setattr(jobs, "HOLDINGS_MAX", 3)
    mesh.worker("a")
    mesh.worker("b", held=[(b"a" * 16, i) for i in range(1, 6)])
    refused = mesh.worker("c")
    assert state_of(mesh, refused) is None
    assert "2 workers" in refused.take()[0][0].message
    assert len(mesh.core._state.holdings) == 3
    for index in range(5):
        mesh.feed(events.FromWorker(b"held%d" % index, messages.Held(b"i" * 16, [[b"s" * 16, 1, 1]]), ()))
    assert len(mesh.core._workers._pending) == 2


def test_a_route_may_not_claim_to_hold_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Harness()
    monkeypatch.setattr(workers.limits, "SLOTS_MAX", 3)
    for index in range(5):
        mesh.feed(events.FromWorker(b"r", messages.Held(b"i" * 16, [[b"s" * 16, index + 1, 1]]), ()))
    assert len(mesh.core._workers._pending[b"r"]) == 3


def test_a_broker_that_was_held_up_judges_nobody_for_it() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    client.request()
    mesh.now += 60
    mesh.feed(events.HeldUp(60))
    mesh.feed(events.Wakeup())
    assert state_of(mesh, worker) == "ready"
    assert mesh.logged("broker_was_held_up")


def test_the_beat_is_shown_in_the_status() -> None:
    mesh = Harness()
    worker = mesh.worker(models=["m"])
    (shown,) = mesh.core.status(mesh.now)["workers"]
    assert {} == shown["counters"]
    worker.beat(warm=["m"], prefix_hits=4)
    (shown,) = mesh.core.status(mesh.now)["workers"]
    assert (shown["memory"], shown["warm"], shown["progress"]) == ({"rss": 1}, ["m"], 1)
    assert {"prefix_hits": 4} == shown["counters"]


@pytest.mark.parametrize("state", list(WorkerState))
@pytest.mark.parametrize("turn", list(Turn))
def test_every_turn_leads_to_a_state_and_ended_workers_stay_ended(state: WorkerState, turn: Turn) -> None:
    following = next_state(state, turn)
    assert following in TRANSITIONS
    if state in (WorkerState.LOST, WorkerState.LEFT):
        assert state is following


def test_a_worker_that_takes_over_a_connection_replaces_the_one_before() -> None:
    mesh = Harness()
    first, client = mesh.worker("first"), mesh.client()
    request_id = client.request()
    first.jobs()
    second = Worker.__new__(Worker)
    second.__dict__.update(first.__dict__)
    second.instance = b"another instance"
    second.fields = (*first.fields[:2], second.instance, "second", *first.fields[4:])
    second.returning()
    assert [request_id] == [job.request_id for job in second.jobs()]
    assert [worker["name"] for worker in mesh.core.status(mesh.now)["workers"]] == ["second"]


def test_the_last_worker_of_an_op_may_drain_and_leave() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    worker.say(messages.Quiet(True))
    request_id = client.request()
    mesh.advance(1)
    worker.say(messages.Bye("drained"))
    mesh.advance(4.2)
    assert {request_id: "NO_WORKER"} == client.answers()


def test_more_ops_than_queues_leave_the_rest_unserved(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_mesh_broker.core import state

    monkeypatch.setattr(state, "QUEUES_MAX", 1)
    mesh = Harness()
    client = mesh.client()
    worker = mesh.worker(ops=["a"])
    client.request("a")
    mesh.worker("other", ops=["b"])
    refused = client.request("b")
    assert {refused: "OVERLOADED"} == client.answers()
    assert len(worker.jobs()) == 1


def test_parked_requests_wait_for_the_whole_time_that_workers_have_to_return() -> None:
    mesh = Harness(rejoin_s=20)
    client = mesh.client(last_epoch="epoch-0")
    client.request(request_id=5, flags=Flag.RESEND | Flag.AT_MOST_ONCE)
    mesh.advance(12)
    assert client.answers() == {}
    mesh.advance(15)
    assert client.answers() == {5: "WORKER_LOST"}
