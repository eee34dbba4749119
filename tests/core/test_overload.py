"""What may be held is bounded, for one client, one queue and all together; only a higher lane gets room by force."""

from __future__ import annotations

import pytest

from mlx_mesh_broker.core import events, overload, state
from mlx_mesh_broker.core.entities import REQUEST_BYTES
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import Client, Harness

KIB = 1024


def error(client: Client) -> messages.Error:
    (found,) = [message for message, _ in client.take() if isinstance(message, messages.Error)]
    return found


def test_a_client_holds_so_many_bytes_however_many_queues_they_are_in() -> None:
    mesh = Harness(client_max_request_bytes=100 * KIB)
    client, other = mesh.client(), mesh.client("other")
    for index in range(3):
        client.request(f"invented{index}", flags=Flag.WAIT_FOR_READY, body=[bytes(30 * KIB)])
    client.take()
    over = client.request("one more", flags=Flag.WAIT_FOR_READY, body=[bytes(30 * KIB)])
    refused = error(client)
    assert (over, "OVERLOADED", True) == (refused.id, refused.code, refused.retryable)
    assert refused.retry_after_ms >= overload.RETRY_MIN_MS
    for figure in ("3 requests outstanding already, of 92160 bytes", "this one has 30720", "64 of 102400 bytes"):
        assert figure in refused.message
    client.request("small", flags=Flag.WAIT_FOR_READY, body=[bytes(10 * KIB)])
    other.request("other", flags=Flag.WAIT_FOR_READY, body=[bytes(100 * KIB)])
    assert client.answers() | other.answers() == {}


def test_what_is_computed_and_what_shares_a_computation_counts_until_it_is_answered() -> None:
    mesh = Harness(client_max_request_bytes=100 * KIB)
    worker, client = mesh.worker(pure=["echo"]), mesh.client()
    first, second = client.request(body=[bytes(40 * KIB)]), client.request(body=[bytes(40 * KIB)])
    assert mesh.core.status(mesh.now)["counters"]["held_bytes"] == 2 * (40 * KIB + REQUEST_BYTES)
    over = client.request(body=[bytes(40 * KIB)])
    assert {over: "OVERLOADED"} == client.answers()
    worker.finish(*worker.jobs())
    again = client.request(body=[b"x" * 40 * KIB])
    assert {first: "OK", second: "OK"} == client.answers()
    assert mesh.core.status(mesh.now)["counters"]["held_bytes"] == 40 * KIB + REQUEST_BYTES
    client.say(messages.Cancel(again))
    assert mesh.core.status(mesh.now)["counters"]["held_bytes"] == 0


def test_all_requests_together_are_bounded_however_many_clients_there_are() -> None:
    each = 30 * KIB + REQUEST_BYTES
    mesh = Harness(requests_max_bytes=10 * each)
    worker = mesh.worker()
    for index in range(10):
        mesh.client(f"c{index}").request(body=[b"%d" % index * (30 * KIB)])
    late = mesh.client("late")
    late.take()
    over = late.request(body=[b"x"])
    refused = error(late)
    assert (over, "OVERLOADED", True, overload.RETRY_MAX_MS) == (
        refused.id, refused.code, refused.retryable, refused.retry_after_ms,
    )  # fmt: skip
    for figure in (
        "10 requests that take 348160 bytes",
        "this one has 1;",
        "allowed are 348160, of which each takes 4096",
    ):
        assert figure in refused.message
    mesh.advance(1.0)
    worker.finish(*worker.jobs())
    late.request(body=[b"x"])
    assert late.answers() == {}


def test_small_requests_count_with_what_the_broker_needs_for_them() -> None:
    mesh = Harness(requests_max_bytes=10 * REQUEST_BYTES + 100)
    client = mesh.client()
    for _ in range(10):
        client.request(flags=Flag.WAIT_FOR_READY, body=[b"x"])
    client.take()
    assert {client.request(flags=Flag.WAIT_FOR_READY, body=[b"x"]): "OVERLOADED"} == client.answers()


def test_a_higher_lane_gets_room_from_the_queue_that_holds_most_and_equal_lanes_get_none() -> None:
    mesh = Harness(requests_max_bytes=100 * KIB)
    mesh.worker(ops=["busy", "free"])
    client, other = mesh.client(), mesh.client("other")
    running = client.request("busy", lane=2, body=[bytes(20 * KIB)])
    small = client.request("small", lane=2, flags=Flag.WAIT_FOR_READY, body=[bytes(KIB)])
    old = client.request("large", lane=2, flags=Flag.WAIT_FOR_READY, body=[bytes(30 * KIB)])
    mesh.advance(0.1)
    new = client.request("large", lane=2, flags=Flag.WAIT_FOR_READY, body=[bytes(30 * KIB)])
    client.take()
    over = other.request("free", lane=2, body=[bytes(30 * KIB)])
    assert {over: "OVERLOADED"} == other.answers()
    other.request("free", lane=1, body=[bytes(30 * KIB)])
    assert {new: "OVERLOADED"} == client.answers()
    over = other.request("free", lane=1, body=[bytes(99 * KIB)])
    assert {over: "OVERLOADED"} == other.answers()
    assert client.answers() == {}
    assert {running, small, old} == set(mesh.core._state.sessions[client.session].outstanding)
    assert mesh.counts["evicted"] == 1


def test_nobody_gives_way_to_a_request_that_would_not_fit_all_the_same() -> None:
    mesh = Harness(queue_max_bytes=100 * KIB, prefetch=0)
    mesh.worker()
    client, other = mesh.client(), mesh.client("other")
    client.request()
    client.request(lane=1, body=[bytes(60 * KIB)])
    client.request(lane=2, body=[bytes(30 * KIB)])
    client.take()
    over = other.request(lane=0, body=[bytes(101 * KIB)])
    assert {over: "OVERLOADED"} == other.answers()
    assert client.answers() == {}


def test_one_request_costs_at_most_so_many_others_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "EVICTED_MAX", 3)
    mesh = Harness(queue_max_bytes=10 * KIB, prefetch=0)
    mesh.worker()
    client, other = mesh.client(), mesh.client("other")
    client.request()
    for _ in range(10):
        client.request(lane=2, body=[bytes(KIB)])
    client.take()
    refused, taken = other.request(lane=0, body=[bytes(4 * KIB)]), other.request(lane=0, body=[bytes(3 * KIB)])
    assert {refused: "OVERLOADED"} == other.answers()
    assert ["OVERLOADED"] * 3 == list(client.answers().values())
    assert taken in mesh.core._state.sessions[other.session].outstanding


def test_a_computation_that_others_share_keeps_its_place() -> None:
    mesh = Harness(queue_max_requests=3, prefetch=0)
    worker, client, other = mesh.worker(pure=["echo"]), mesh.client(), mesh.client("other")
    client.request(body=[b"running"])
    alone = client.request(lane=2, body=[b"alone"])
    mesh.advance(0.1)
    shared = client.request(lane=2, body=[b"shared"])
    other.request(lane=2, body=[b"shared"])
    other.request(lane=0, body=[b"equal"])
    client.take()
    first = other.request(lane=0)
    assert {alone: "OVERLOADED"} == client.answers()
    over = other.request(lane=0, body=[b"another"])
    assert {over: "OVERLOADED"} == other.answers()
    for _ in range(4):
        worker.finish(*worker.jobs())
    assert client.answers()[shared] == "OK"
    assert other.answers()[first] == "OK"


def test_a_client_that_is_away_is_ended_as_soon_as_too_much_is_kept_for_it() -> None:
    mesh = Harness(client_max_bytes=10 * KIB, away_s=60)
    worker, client = mesh.worker(slots=64), mesh.client()
    for _ in range(60):
        client.request()
    mesh.feed(events.ClientUnreachable(client.route, [(messages.Ping(0), ())]))
    jobs = worker.jobs()
    worker.finish(*jobs[:30])
    mesh.advance(0.01)
    assert mesh.core.status(mesh.now)["clients"] == 1
    worker.finish(*jobs[30:50])
    mesh.advance(0.01)
    assert mesh.core.status(mesh.now)["clients"] == 0


def test_records_that_nobody_takes_are_bounded_and_do_not_wait_for_the_next_watcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, "RECORDS_MAX", 3)
    mesh = Harness()
    worker, client = mesh.worker(slots=8), mesh.client()
    mesh.core.record_requests = True
    for _ in range(5):
        client.request()
    worker.finish(*worker.jobs())
    assert (3, 2) == (len(mesh.core.take_records()), mesh.counts["records_dropped"])
    client.request()
    worker.finish(*worker.jobs())
    mesh.core.record_requests = False
    mesh.core.record_requests = True
    assert mesh.core.take_records() == []


def test_codes_that_workers_invent_make_no_series() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=8), mesh.client()
    for _ in range(3):
        client.request()
    client.take()
    for job in worker.jobs():
        worker.say(messages.Error(job.job_id, f"ODD_{job.job_id}", "", False, 0))
    assert all(message.code.startswith("ODD_") for message, _ in client.take())
    assert mesh.core.metrics.ops["echo", ""].outcomes == {(1, "INTERNAL"): 3}
