"""Streams whose reader comes back on another connection: nothing is missing, nothing comes twice."""

from __future__ import annotations

from typing import Any

from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import BODY, Client, Harness, Worker

STREAM = 1


def streaming(window: int = 8, flags: int = 0, chunks: int = 3) -> tuple[Harness, Worker, Client, Any]:
    """Return a mesh in which the client's request 1 is a stream of which so many chunks were sent to it."""
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    client.request(window=window, flags=flags)
    (job,) = worker.jobs()
    send(worker, job, range(chunks))
    client.take()
    return mesh, worker, client, job


def send(worker: Worker, job: Any, seqs: range) -> None:
    for seq in seqs:
        worker.say(messages.Chunk(job.job_id, seq), BODY)


def come_back(client: Client, *, seen: int, window: int, flags: int = 0) -> None:
    client.route += b"'"
    client.hello("epoch-1")
    client.take()
    resend = flags | Flag.RESEND
    client.say(messages.Request(STREAM, "echo", "", 1, 60_000, resend, window, b"", "", seen), BODY)


def test_a_reader_that_has_all_chunks_goes_on_with_the_credit_that_it_has_room_for() -> None:
    _, worker, client, job = streaming(window=8)
    come_back(client, seen=3, window=8)
    assert [messages.Credit(job.job_id, 3)] == [m for m, _ in worker.take()]
    send(worker, job, range(3, 5))
    worker.finish(job)
    assert [3, 4] == [m.seq for m, _ in client.take() if isinstance(m, messages.Chunk)]


def test_a_reader_with_less_room_than_was_granted_is_sent_no_more_credit() -> None:
    _, worker, client, _ = streaming(window=8)
    come_back(client, seen=3, window=2)
    assert [] == worker.take()


def test_chunks_that_were_lost_are_computed_again_and_the_rest_is_not_sent_twice() -> None:
    _, worker, client, job = streaming(window=8)
    come_back(client, seen=1, window=8)
    (cancel, _), (again, _) = worker.take()
    assert messages.Cancel(job.job_id) == cancel
    assert (STREAM, 8) == (again.request_id, again.window)
    send(worker, again, range(1))
    assert [messages.Credit(again.job_id, 1)] == [m for m, _ in worker.take()]
    send(worker, again, range(1, 5))
    worker.finish(again)
    *chunks, final = [m for m, _ in client.take()]
    assert [1, 2, 3, 4] == [m.seq for m in chunks]
    assert 5 == final.chunks


def test_lost_chunks_of_at_most_once_end_it() -> None:
    _, worker, client, job = streaming(flags=Flag.AT_MOST_ONCE)
    come_back(client, seen=2, window=8, flags=Flag.AT_MOST_ONCE)
    assert [messages.Cancel(job.job_id)] == [m for m, _ in worker.take()]
    assert {STREAM: "WORKER_LOST"} == client.answers()


def test_lost_chunks_of_a_stream_that_waits_for_a_worker_are_sent_when_one_comes() -> None:
    mesh, worker, client, _ = streaming()
    worker.die()
    come_back(client, seen=1, window=4)
    second = mesh.worker("second")
    (job,) = second.jobs()
    send(second, job, range(3))
    assert [1, 2] == [m.seq for m, _ in client.take()]


def test_a_broker_that_knows_nothing_of_a_stream_goes_on_from_what_the_reader_has() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    client.take()
    client.say(messages.Request(STREAM, "echo", "", 1, 60_000, Flag.RESEND, 4, b"", "", 2), BODY)
    (job,) = worker.jobs()
    send(worker, job, range(4))
    worker.finish(job)
    assert [2, 3, 4] == [getattr(m, "seq", getattr(m, "chunks", None)) for m, _ in client.take()]


def test_a_worker_that_ends_a_stream_with_more_chunks_than_came_skipped_some() -> None:
    _, worker, client, job = streaming()
    worker.say(messages.Final(job.job_id, 1, 0, 0, 0, 4), BODY)
    assert {STREAM: "INTERNAL"} == client.answers()


def test_a_request_that_is_dropped_for_want_of_a_greeting_is_named() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    client.route = b"elsewhere"
    client.request(request_id=7)
    client.say(messages.Cancel(7))
    assert [messages.Reset("epoch-1", 7), messages.Reset("epoch-1", 0)] == [m for m, _ in client.take()]


def test_one_that_is_sent_again_is_not_said_to_have_been_dropped() -> None:
    """The session that took it in at first may have ended, while its worker has begun."""
    mesh = Harness()
    client = mesh.client()
    client.take()
    client.route = b"elsewhere"
    client.request(request_id=7, flags=Flag.RESEND)
    assert [messages.Reset("epoch-1", 0)] == [m for m, _ in client.take()]


def test_more_room_of_a_stream_that_waits_is_part_of_its_window() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    client.request(request_id=9)
    client.request(request_id=STREAM, window=2)
    come_back(client, seen=0, window=6)
    worker.finish(*worker.jobs())
    (job,) = worker.jobs()
    assert 6 == job.window


def test_a_stream_that_begins_anew_brings_a_reader_without_room_no_more_than_it_granted() -> None:
    _, worker, client, job = streaming(window=2, chunks=2)
    worker.say(messages.Return(job.job_id, "draining"))
    (again,) = worker.jobs()
    assert (1, 2) == (again.window, again.attempt)
    send(worker, again, range(1))
    assert [messages.Credit(again.job_id, 1)] == [message for message, _ in worker.take()]
    send(worker, again, range(1, 2))
    assert [] == worker.take()
    client.say(messages.Credit(STREAM, 2))
    assert [messages.Credit(again.job_id, 2)] == [message for message, _ in worker.take()]
