"""What the core counts, tells and refuses, to the unit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_broker.core import complaints, events, nobody
from mlx_mesh_broker.core.actions import ToClient
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_broker.core.entities import PROGRESS_CHUNKS, REQUEST_BYTES, SMALL_BYTES
from mlx_mesh_broker.core.jobs import HOLDING_S
from mlx_mesh_broker.core.metrics import BUCKETS_S
from mlx_mesh_broker.core.sharing import ENTRY_BYTES, content_key
from mlx_mesh_broker.core.state import STAMP_BITS, State
from mlx_mesh_wire import limits, messages, pack_body
from mlx_mesh_wire.messages import Flag
from tests.core.guard_words import CALM, fatal
from tests.core.harness import BODY, Client, Harness, stream


def test_who_was_complained_about_last_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaints, "ROUTES_MAX", 2)
    mesh = Harness()
    a, b, c = (mesh.client(name) for name in "abc")

    def told(client: Client) -> bool:
        client.take()
        client.say(messages.Quiet(True))
        return bool(client.take())

    assert [True, True, False] == [told(a), told(b), told(a)]
    mesh.advance(1.0)
    assert [True, True] == [told(a), told(c)]  # so that b, of which nothing was said since, is not remembered
    mesh.advance(0.5)
    assert [False, False, True] == [told(a), told(c), told(b)]


def test_an_error_of_the_connection_has_no_id_and_no_time_to_come_back() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    client.say(messages.Quiet(True))
    client.say(messages.Hello(2, 0, b"x" * 16, "c", ""))
    errors = [message for message, _ in client.take() if isinstance(message, messages.Error)]
    assert [(0, "PROTOCOL_ERROR", False, 0)] * 2 == [(e.id, e.code, e.retryable, e.retry_after_ms) for e in errors]


def test_a_refusal_without_a_time_to_come_back_says_none_and_a_status_is_a_bare_answer() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    client.request("nothing")
    client.say(messages.Status(9))
    (refused, _), (status, _) = client.take()
    assert (1, "NO_WORKER", 0) == (refused.id, refused.code, refused.retry_after_ms)
    assert messages.Final(9, 0, 0, 0, 0) == status


def test_a_full_broker_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_mesh_broker.core.sessions.SESSIONS_MAX", 1)
    mesh = Harness()
    mesh.worker()
    mesh.client("a").request()
    ((error, _),) = mesh.client("b").take()
    assert (0, "OVERLOADED", True, 1000) == (error.id, error.code, error.retryable, error.retry_after_ms)


def test_figures_of_streams_are_those_of_their_first_chunk_and_of_all() -> None:
    mesh = Harness()
    worker = mesh.worker()
    _, job = stream(mesh, worker)
    mesh.advance(2.0)
    for seq in range(3):
        worker.say(messages.Chunk(job.job_id, seq), BODY)
        mesh.advance(1.0)
    figures = mesh.core.metrics.ops["echo", ""]
    assert (1, pytest.approx(2.0), 3) == (sum(figures.first_chunk.counts), figures.first_chunk.sum, figures.chunks)
    worker.say(messages.Chunk(999, 0), BODY)
    assert 1 == mesh.counts["late_answers"]
    worker.say(messages.Final(job.job_id, 1, 5, 50, 0, 3), BODY)
    (told,) = mesh.core.status(mesh.now)["workers"]
    assert 1 == told["served"]


@pytest.mark.parametrize(("size", "large"), [(SMALL_BYTES, 0), (SMALL_BYTES + 1, SMALL_BYTES + 1)])
def test_bodies_over_two_kibibytes_are_counted_by_the_byte(size: int, large: int) -> None:
    mesh = Harness()
    mesh.worker()
    mesh.client().request(body=[b"x" * size])
    assert large == mesh.core._state.large_bytes


def test_what_is_said_of_a_process_has_room_for_when_it_is_tried_again() -> None:
    mesh = Harness(rejoin_s=0)
    client = mesh.client()
    client.take()
    mesh.feed(events.GuardTold(CALM._replace(troubled=[fatal("new-0", "r" * 500, retry_s=0.0)]), ""))
    client.request("embed")
    ((error, _),) = client.take()
    _, _, told = error.message.partition("; new-0")
    assert nobody.NAMED_MAX_CHARS == len("new-0" + told)
    assert told.endswith("r; it is started again in 0 s")


def test_the_age_of_what_the_guard_said_is_told_to_a_thousandth() -> None:
    mesh = Harness()
    mesh.feed(events.GuardTold(CALM, ""))
    mesh.advance(1.23456)
    assert 1.235 == mesh.core.status(mesh.now)["guard"]["age_s"]


@pytest.mark.parametrize("epoch", [f"epoch-{number}" for number in range(20)])
def test_the_numbers_of_an_epoch_are_its_own_and_all_fit_on_the_wire(epoch: str) -> None:
    first = State(Config(), epoch, "here", 0.0).stamp()
    assert 1 == first % 2**STAMP_BITS
    assert first + 2**STAMP_BITS <= limits.INTEGER_MAX
    assert first != State(Config(), epoch + "x", "here", 0.0).stamp()


def test_records_of_requests_have_their_times_in_milliseconds() -> None:
    mesh = Harness()
    mesh.core.record_requests = True
    worker = mesh.worker()
    mesh.client().request()
    (job,) = worker.jobs()
    mesh.advance(1.5)
    worker.finish(job)
    (record,) = mesh.core.take_records()
    times: dict[str, Any] = {name: value for name, value in record.items() if name.endswith("_ms")}
    assert 1500 in [round(value) for value in times.values()]
    assert pack_body(record)


def test_a_request_that_is_sent_twice_is_counted_as_one_and_a_repetition() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client()
    client.request()
    client.request(request_id=1)
    assert (1, 1) == (mesh.counts["duplicates"], mesh.core.status(mesh.now)["counters"]["accepted"])


def test_what_a_request_waited_and_took_is_observed_once_each() -> None:
    mesh = Harness()
    client = mesh.client()
    mesh.worker("loading", loading=True)
    client.request()
    mesh.advance(2.0)
    worker = mesh.worker()
    (job,) = worker.jobs()
    mesh.advance(1.0)
    worker.finish(job)
    figures = mesh.core.metrics.ops["echo", ""]
    assert (pytest.approx(2.0), pytest.approx(3.0)) == (figures.queue_time.sum, figures.request_time.sum)
    assert {(1, "OK"): 1} == figures.outcomes


def test_the_names_of_what_is_served_are_those_of_now() -> None:
    mesh = Harness(rejoin_s=0)
    client = mesh.client()
    texts = []
    for op in ("one", "two"):
        mesh.worker(op, ops=[op])
        client.take()
        client.request("nothing")
        ((error, _),) = client.take()
        texts.append(error.message)
    assert ["serves one;", "serves one, two;"] == [
        text[text.index("serves one") :].partition("; ")[0] + ";" for text in texts
    ]


def test_a_broker_takes_the_one_before_to_have_ended_in_order_unless_told_otherwise() -> None:
    core = Broker(Config(), "e", 100.0)
    core.handle(100.0, events.FromClient(b"r", messages.Hello(1, 0, b"s" * 16, "c", ""), (), None))
    out = core.handle(100.0, events.FromClient(b"r", messages.Request(1, "op", "", 1, 9000, 0, 0, b"", ""), BODY, None))
    assert ["NO_WORKER"] == [action.message.code for action in out if isinstance(action, ToClient)]


@pytest.mark.parametrize(("size", "kept"), [(1000, True), (1001, False)])
def test_a_result_is_kept_that_takes_an_eighth_of_the_cache_at_most(size: int, kept: bool) -> None:
    mesh = Harness(cache_max_bytes=8 * (1000 + ENTRY_BYTES))
    worker = mesh.worker(pure=("echo",))
    client = mesh.client()
    client.request()
    worker.finish(*worker.jobs(), body=[b"x" * size])
    client.request()
    assert kept == (not worker.jobs())
    assert 16 == len(content_key("op", "", BODY))


def test_what_is_poison_is_counted_once_and_what_is_refused_for_it_each_time() -> None:
    mesh = Harness()
    client = mesh.client()
    client.request(flags=Flag.WAIT_FOR_READY)
    for name in "ab":
        worker = mesh.worker(name)
        worker.die({job.job_id for job in worker.jobs()})
    for _ in range(2):
        client.request(flags=Flag.WAIT_FOR_READY)
    assert (1, 2) == (mesh.counts["poisoned"], mesh.counts["quarantined"])


def test_a_full_queue_says_when_half_of_it_will_have_been_answered() -> None:
    mesh = Harness(queue_max_requests=3, prefetch=0)
    worker = mesh.worker()
    client = mesh.client()
    for _ in range(2):
        client.request()
        mesh.advance(0.3)
        worker.finish(*worker.jobs())
    for _ in range(4):
        client.request()
    client.take()
    mesh.advance(0.65)
    client.request()
    ((refused, _),) = client.take()
    assert int(1000 * 3 / 2 * 1.25 / 2) == refused.retry_after_ms


def test_no_more_give_way_than_have_to() -> None:
    mesh = Harness(queue_max_requests=3, prefetch=0)
    mesh.worker()
    client = mesh.client()
    client.request(lane=0)
    for _ in range(3):
        client.request(lane=2)
    client.request(lane=0)
    assert {4: "OVERLOADED"} == client.answers()


def test_the_status_counts_what_is_outstanding_and_since_when() -> None:
    mesh = Harness(rejoin_s=60.0)
    worker = mesh.worker()
    client = mesh.client()
    client.request()
    client.request()
    job, _ = worker.jobs()
    mesh.advance(1.23456)
    worker.finish(job)
    worker.die(None)
    mesh.advance(2.34567)
    told = mesh.core.status(mesh.now)
    assert (3.58, 2, 1, 1) == (
        told["uptime_s"],
        *(told["counters"][n] for n in ("accepted", "answered", "outstanding")),
    )
    (queue,) = told["queues"]
    assert (2.346, 0, 1) == (queue["gone_s"], queue["workers"], queue["waiting"]["again"])


def test_the_time_for_which_the_broker_was_held_up_does_not_age_what_the_guard_said() -> None:
    mesh = Harness()
    mesh.feed(events.GuardTold(CALM, ""))
    mesh.advance(5.0)
    mesh.feed(events.HeldUp(3.0))
    assert 2.0 == mesh.core.status(mesh.now)["guard"]["age_s"]


def test_histograms_reach_from_a_millisecond_to_two_minutes_and_know_the_promise_to_people() -> None:
    assert (0.001, 120.0) == (BUCKETS_S[0], BUCKETS_S[-1])
    assert 0.25 in BUCKETS_S
    assert all(1 < upper / lower <= 3 for lower, upper in pairwise(BUCKETS_S))


def test_what_is_kept_for_workers_and_streams_is_what_the_documents_say() -> None:
    root = Path(__file__).parents[2]
    spec, delivery = (root / "protocol/SPEC.md").read_text(), (root / "docs/delivery.md").read_text()
    assert f"that are no streams (a broker has taken all older ones, by rule 3) for {HOLDING_S:g} s" in spec
    assert ("Four new chunks" in delivery, 4) == (True, PROGRESS_CHUNKS)
    assert (REQUEST_BYTES, SMALL_BYTES) == (4096, 2048), "bytes that each request counts at least, and its small body"
