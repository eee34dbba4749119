"""What is taken in and what is refused at once."""

from __future__ import annotations

import pytest

from mlx_mesh_broker.core import events
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import FinalFlag, Flag
from tests.core.harness import BODY, Harness


def test_an_op_without_a_worker_is_refused_at_once_with_what_there_is() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    client.request("embed")
    ((error, _),) = client.take()
    assert (error.code, error.retryable) == ("NO_WORKER", False)
    assert "the mesh has no workers" in error.message
    mesh.worker(ops=["echo", "upper"])
    client.request("embed")
    ((error, _),) = client.take()
    assert "the mesh serves echo, upper" in error.message


def test_an_unknown_model_is_named_with_those_that_are_served() -> None:
    mesh = Harness()
    mesh.worker(models=["small", "large"])
    client = mesh.client()
    client.take()
    client.request(model="huge")
    ((error, _),) = client.take()
    assert error.code == "UNKNOWN_MODEL"
    assert "large, small" in error.message


def test_wait_for_ready_waits_for_the_first_worker() -> None:
    mesh = Harness()
    client = mesh.client()
    request_id = client.request(flags=Flag.WAIT_FOR_READY, ms=3_600_000)
    mesh.advance(60)
    worker = mesh.worker()
    assert [request_id] == [job.request_id for job in worker.jobs()]


def test_a_loading_worker_is_waited_for() -> None:
    mesh = Harness()
    worker, client = mesh.worker(loading=True), mesh.client()
    request_id = client.request()
    assert worker.jobs() == []
    worker.returning()
    assert [request_id] == [job.request_id for job in worker.jobs()]


def test_work_waits_a_while_for_workers_that_left_and_then_is_refused() -> None:
    mesh = Harness(rejoin_s=5)
    worker, client = mesh.worker(), mesh.client()
    worker.say(messages.Bye("restart"))
    waiting, patient = client.request(), client.request(flags=Flag.WAIT_FOR_READY)
    client.take()
    mesh.advance(4.9)
    late = client.request()
    assert client.answers() == {}
    mesh.advance(0.2)
    assert {waiting: "NO_WORKER", late: "NO_WORKER"} == client.answers()
    refused = client.request()
    assert {refused: "NO_WORKER"} == client.answers()
    back = mesh.worker("back")
    assert [patient] == [job.request_id for job in back.jobs()]


def test_a_worker_that_comes_back_in_time_gets_what_waited() -> None:
    mesh = Harness(rejoin_s=5)
    worker, client = mesh.worker(), mesh.client()
    worker.say(messages.Bye("restart"))
    request_id = client.request()
    mesh.advance(3)
    back = mesh.worker("back")
    assert [request_id] == [job.request_id for job in back.jobs()]
    mesh.advance(3)
    assert "NO_WORKER" not in client.answers().values()


def test_clients_of_an_earlier_epoch_wait_for_their_workers_to_return_too() -> None:
    mesh = Harness(rejoin_s=5)
    returning, new = mesh.client("returning", last_epoch="epoch-0"), mesh.client("new")
    kept, resent = returning.request(), new.request(flags=Flag.RESEND)
    assert returning.answers() | new.answers() == {}
    refused = new.request()
    assert {refused: "NO_WORKER"} == new.answers()
    mesh.advance(6)
    assert {kept: "NO_WORKER"} == returning.answers()
    assert {resent: "NO_WORKER"} == new.answers()
    late = returning.request()
    assert {late: "NO_WORKER"} == returning.answers()


def test_after_a_broker_that_was_killed_new_clients_wait_for_its_workers_too() -> None:
    mesh = Harness(bereft=True, rejoin_s=5)
    new = mesh.client()
    served = new.request()
    mesh.advance(1)
    worker = mesh.worker()
    assert [served] == [job.request_id for job in worker.jobs()]
    worker.finish(*worker.jobs())
    new.take()
    other = new.request(op="other")
    mesh.advance(2)
    assert {} == new.answers()
    mesh.advance(3.1)
    late = new.request(op="other")
    assert {other: "NO_WORKER", late: "NO_WORKER"} == new.answers()


def test_an_expired_request_and_one_without_a_body_are_refused() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client()
    expired, empty = client.request(ms=0), client.request(body=())
    assert {expired: "DEADLINE_EXCEEDED", empty: "INVALID_REQUEST"} == client.answers()


def test_a_client_has_so_many_outstanding_and_no_more() -> None:
    mesh = Harness(client_max_outstanding=2)
    mesh.worker()
    client, other = mesh.client("c"), mesh.client("other")
    client.request()
    client.request()
    over = client.request()
    other.request()
    ((error, _),) = [m for m in client.take() if isinstance(m[0], messages.Error)]
    assert (over, "OVERLOADED", True) == (error.id, error.code, error.retryable)
    assert error.retry_after_ms > 0
    assert other.answers() == {}


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    mesh = Harness(queue_max_requests=2, prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    client.request()
    client.request()
    client.request()
    client.take()
    over = client.request()
    ((error, _),) = client.take()
    assert (over, "OVERLOADED", True, 5000) == (error.id, error.code, error.retryable, error.retry_after_ms)
    mesh.advance(1.0)
    (job,) = worker.jobs()
    worker.finish(job)
    client.request()
    client.take()
    client.request()
    ((error, _),) = client.take()
    assert error.retry_after_ms == 1000


def test_a_queue_is_bounded_in_bytes_too() -> None:
    mesh = Harness(queue_max_bytes=1000, prefetch=0)
    mesh.worker()
    client = mesh.client()
    client.request(body=[b"x" * 900])
    fits, over = client.request(body=[b"x" * 900]), client.request(body=[b"x" * 101])
    assert {over: "OVERLOADED"} == client.answers()
    assert fits in mesh.core._state.sessions[client.session].outstanding


def test_only_a_strictly_higher_lane_evicts_the_newest_of_the_lowest_lane() -> None:
    mesh = Harness(queue_max_requests=3, prefetch=0)
    mesh.worker()
    client, other = mesh.client(), mesh.client("other")
    client.request()
    standard = client.request(lane=1)
    old_bulk = client.request(lane=2)
    mesh.advance(0.01)
    new_bulk = other.request(lane=2)
    client.take()
    first = client.request(lane=0)
    assert {new_bulk: "OVERLOADED"} == other.answers()
    client.request(lane=0)
    assert {old_bulk: "OVERLOADED"} == client.answers()
    client.request(lane=0)
    assert {standard: "OVERLOADED"} == client.answers()
    over = client.request(lane=0)
    assert {over: "OVERLOADED"} == client.answers()
    assert first in mesh.core._state.sessions[client.session].outstanding
    assert mesh.counts["evicted"] == 3


def test_a_repeated_request_id_is_not_run_twice() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=4), mesh.client()
    request_id = client.request()
    client.request(request_id=request_id, flags=Flag.RESEND)
    (job,) = worker.jobs()
    worker.finish(job)
    assert {request_id: "OK"} == client.answers()
    assert mesh.counts["duplicates"] == 1


@pytest.mark.parametrize("flags", [0, Flag.FRESH, Flag.AT_MOST_ONCE])
def test_equal_requests_for_a_pure_op_share_one_computation(flags: int) -> None:
    mesh = Harness()
    worker, one, two = mesh.worker(pure=["echo"], slots=8), mesh.client("one"), mesh.client("two")
    first, second = one.request(flags=flags), two.request(flags=flags)
    jobs = worker.jobs()
    assert (1 if flags == 0 else 2) == len(jobs)
    two.take()
    worker.finish(*jobs, body=[b"result"])
    assert {first: "OK"} == one.answers()
    ((final, frames),) = two.take()
    assert (second, FinalFlag.SHARED if flags == 0 else 0) == (final.id, final.flags)
    assert list(frames) == [b"result"]


def test_other_bodies_models_streams_and_impure_ops_share_nothing() -> None:
    mesh = Harness()
    worker, client = mesh.worker(ops=["echo", "act"], pure=["echo"], slots=16), mesh.client()
    for _ in range(2):
        client.request("act")
        client.request(window=4)
    client.request(body=[b"a", b"bc"])
    client.request(body=[b"ab", b"c"])
    client.request(body=[b"x" * 300_000])
    client.request(body=[b"x" * 300_000])
    assert len(worker.jobs()) == 8


def test_repeats_are_answered_from_the_cache_until_it_is_too_old() -> None:
    mesh = Harness(cache_ttl_s=10, lost_s=60, suspect_s=50)
    worker, client = mesh.worker(pure=["echo"]), mesh.client()
    client.request()
    worker.finish(*worker.jobs(), body=[b"result"])
    client.take()
    repeat = client.request()
    ((final, frames),) = client.take()
    assert messages.Final(repeat, 0, 0, 0, FinalFlag.CACHED) == final
    assert list(frames) == [b"result"]
    mesh.advance(10.1)
    client.request()
    assert len(worker.jobs()) == 1
    assert (mesh.counts["cache_hits"], mesh.counts["cache_misses"]) == (1, 2)


def test_the_cache_is_bounded_in_bytes() -> None:
    mesh = Harness(cache_max_bytes=9300)
    worker, client = mesh.worker(pure=["echo"]), mesh.client()
    for index in range(20):
        client.request(body=[b"%d" % index])
        worker.finish(*worker.jobs(), body=[b"x" * 900])
    client.request(body=[b"large"])
    worker.finish(*worker.jobs(), body=[b"x" * 2000])
    cache = mesh.core._state.cache
    assert len(cache) == 8
    assert cache.bytes <= 9300
    cache.put((1, b"same"), [b"a"], 0.0)
    size = cache.bytes
    cache.put((1, b"same"), [b"b"], 0.0)
    assert size == cache.bytes


def test_when_the_first_of_equal_requests_is_cancelled_while_running_the_next_takes_its_job() -> None:
    mesh = Harness()
    worker, one, two, three = mesh.worker(pure=["echo"]), *map(mesh.client, ("one", "two", "three"))
    first, second, third = one.request(), two.request(), three.request()
    (job,) = worker.jobs()
    one.say(messages.Cancel(first))
    assert worker.take() == []
    worker.finish(job)
    assert {first: "CANCELLED"} == one.answers()
    assert {second: "OK"} == two.answers()
    assert {third: "OK"} == three.answers()


def test_when_the_first_of_equal_requests_is_cancelled_in_the_queue_the_next_takes_its_place() -> None:
    mesh = Harness(prefetch=0)
    worker, one, two = mesh.worker(pure=["echo"]), mesh.client("one"), mesh.client("two")
    one.request(body=[b"other"])
    first, second = one.request(), two.request()
    one.say(messages.Cancel(first))
    worker.finish(*worker.jobs())
    worker.finish(*worker.jobs())
    assert {second: "OK"} == two.answers()


def test_a_follower_that_is_cancelled_leaves_the_computation_to_the_others() -> None:
    mesh = Harness()
    worker, one, two = mesh.worker(pure=["echo"]), mesh.client("one"), mesh.client("two")
    first, second = one.request(), two.request()
    two.say(messages.Cancel(second))
    worker.finish(*worker.jobs())
    assert {first: "OK"} == one.answers()
    assert {second: "CANCELLED"} == two.answers()


def test_a_lone_shared_request_that_is_cancelled_leaves_nothing_behind() -> None:
    mesh = Harness()
    worker, client = mesh.worker(pure=["echo"]), mesh.client()
    client.say(messages.Cancel(client.request()))
    assert mesh.core._state.flights == {}
    client.request()
    assert len(worker.jobs()) == 2


def test_a_request_does_not_wait_behind_an_equal_one_of_a_lower_lane() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(pure=["echo"]), mesh.client()
    client.request(body=[b"other"])
    bulk, fast = client.request(lane=2), client.request(lane=0)
    client.take()
    worker.finish(*worker.jobs())
    (job,) = worker.jobs()
    assert fast == job.request_id
    worker.finish(job)
    worker.finish(*worker.jobs())
    assert {fast: "OK", bulk: "OK"}.items() <= client.answers().items()


def test_when_the_worker_lets_a_shared_job_expire_the_followers_get_a_run_of_their_own() -> None:
    mesh = Harness()
    worker, one, two = mesh.worker(pure=["echo"]), mesh.client("one"), mesh.client("two")
    first, second = one.request(ms=1000), two.request(ms=9000)
    (job,) = worker.jobs()
    worker.say(messages.Error(job.job_id, "DEADLINE_EXCEEDED", "too late", False, 0))
    assert {first: "DEADLINE_EXCEEDED"} == one.answers()
    worker.finish(*worker.jobs())
    assert {second: "OK"} == two.answers()


def test_the_deadline_of_the_one_who_began_is_not_that_of_the_one_who_took_over() -> None:
    mesh = Harness()
    worker, one, two = mesh.worker(pure=["echo"]), mesh.client("one"), mesh.client("two")
    first, second = one.request(ms=1000), two.request(ms=9000)
    (job,) = worker.jobs()
    mesh.advance(1.01)
    assert {first: "DEADLINE_EXCEEDED"} == one.answers()
    worker.say(messages.Error(job.job_id, "DEADLINE_EXCEEDED", "too late", False, 0))
    (again,) = worker.jobs()
    assert 7900 < again.remaining_ms < 8000
    worker.finish(again)
    assert {second: "OK"} == two.answers()


def test_an_error_of_a_shared_computation_is_everybodys() -> None:
    mesh = Harness()
    worker, one, two = mesh.worker(pure=["echo"]), mesh.client("one"), mesh.client("two")
    one.request()
    two.request()
    (job,) = worker.jobs()
    worker.say(messages.Error(job.job_id, "ENGINE_ERROR", "no", False, 0))
    assert list(one.answers().values()) == ["ENGINE_ERROR"]
    assert list(two.answers().values()) == ["ENGINE_ERROR"]


def test_sharing_can_be_turned_off() -> None:
    mesh = Harness(single_flight=False, cache_max_bytes=0)
    worker, client = mesh.worker(pure=["echo"], slots=4), mesh.client()
    client.request()
    client.request()
    worker.finish(*worker.jobs())
    client.request()
    assert len(worker.jobs()) == 1


def test_a_malformed_request_is_answered_under_its_id_if_that_could_be_read() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    mesh.feed(events.BadClientMessage(client.route, "Request.lane is 9", 77, "PROTOCOL_ERROR"))
    assert client.answers() == {77: "PROTOCOL_ERROR"}
    mesh.feed(events.BadClientMessage(client.route, "message has over 8 frames", 78, "TOO_LARGE"))
    assert client.answers() == {78: "TOO_LARGE"}


def test_a_malformed_message_does_not_answer_an_outstanding_request() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client()
    request_id = client.request()
    client.take()
    mesh.feed(events.BadClientMessage(client.route, "nonsense", request_id, "PROTOCOL_ERROR"))
    ((error, _),) = client.take()
    assert error.id == 0


def test_a_client_that_is_not_known_yet_is_told_to_greet_whatever_is_wrong_with_its_request() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    mesh.feed(events.BadClientMessage(b"another connection", "message has over 8 frames", 78, "TOO_LARGE"))
    (answer,) = mesh.to_clients[b"another connection"]
    assert (messages.Reset("epoch-1", 78), ()) == answer


def test_records_are_made_only_while_somebody_wants_them() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    client.request()
    worker.finish(*worker.jobs())
    assert mesh.core.take_records() == []
    mesh.core.record_requests = True
    assert mesh.core.record_requests
    client.request(body=BODY)
    mesh.advance(0.5)
    worker.finish(*worker.jobs())
    (record,) = mesh.core.take_records()
    assert (record["op"], record["outcome"], record["attempts"], record["client"]) == ("echo", "OK", 1, "c")
    assert pytest.approx(record["total_ms"]) == 500
    assert mesh.core.take_records() == []


def test_when_the_first_of_equal_requests_waits_for_workers_no_longer_one_that_may_goes_on_waiting() -> None:
    mesh = Harness(rejoin_s=2.0)
    worker, one, two, three = mesh.worker(pure=["echo"]), *map(mesh.client, ("one", "two", "three"))
    mesh.feed(events.Drain("*", True))
    first, second, third = one.request(), two.request(flags=Flag.WAIT_FOR_READY), three.request()
    mesh.advance(2.1)
    assert {first: "NO_WORKER"} == one.answers()
    assert {third: "NO_WORKER"} == three.answers()
    assert {} == two.answers()
    mesh.feed(events.Drain("*", False))
    worker.finish(*worker.jobs())
    assert {second: "OK"} == two.answers()
