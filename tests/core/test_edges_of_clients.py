"""Clients at the edges of their bounds: the last moment and the last byte at which something still holds."""

from __future__ import annotations

import pytest

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.state import AWAY_MESSAGE_BYTES
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import BODY, Harness, Worker, ping_until, stream


def resume(
    mesh: Harness, worker: Worker, seen: int, *frames: bytes, window: int = 0
) -> tuple[messages.Job, list[bytes]]:
    """Return the job that a stream becomes which an earlier broker had, and its frames."""
    flags = Flag.RESUMABLE | Flag.RESUMED | Flag.RESEND
    mesh.client().say(messages.Request(1, "echo", "", 1, 60_000, flags, window, b"", "", seen), frames)
    ((job, sent),) = [mail for mail in worker.take() if isinstance(mail[0], messages.Job)]
    return job, list(sent)


@pytest.mark.parametrize(("seconds", "ended"), [(9.0, False), (12.0, True)])
def test_a_reader_has_the_time_of_its_credit(seconds: float, ended: bool) -> None:
    mesh = Harness()
    worker = mesh.worker()
    client, job = stream(mesh, worker, window=1)
    worker.say(messages.Chunk(job.job_id, 0), BODY)
    ping_until(mesh, seconds, client, worker)
    assert ({1: "SLOW_CONSUMER"} if ended else {}) == client.answers()


def test_a_reader_is_slow_at_the_end_of_its_time_to_the_second() -> None:
    mesh = Harness(credit_s=10.0, ping_s=1.0)
    worker = mesh.worker()
    client, job = stream(mesh, worker, window=1)
    worker.say(messages.Chunk(job.job_id, 0), BODY)  # in the same moment in which the client began to be looked after
    ping_until(mesh, 9.5, client, worker)
    assert {} == client.answers()
    ping_until(mesh, 0.5, client, worker)
    assert {1: "SLOW_CONSUMER"} == client.answers()


@pytest.mark.parametrize(("seconds", "forgotten"), [(29.0, False), (31.0, True)])
def test_an_idle_client_is_forgotten_after_its_time_and_a_greeting_counts(seconds: float, forgotten: bool) -> None:
    mesh = Harness(session_idle_s=30)
    client = mesh.client()
    mesh.advance(20.0)
    client.hello()
    mesh.advance(seconds)
    assert forgotten == (0 == mesh.core.status(mesh.now)["clients"])


def test_a_client_that_is_away_is_forgotten_at_the_end_of_its_time_to_the_second() -> None:
    mesh = Harness(away_s=5.0)
    client = mesh.client()
    mesh.feed(events.ClientUnreachable(client.route, []))
    mesh.advance(4.9)
    assert 1 == mesh.core.status(mesh.now)["clients"]
    mesh.advance(0.1)
    assert 0 == mesh.core.status(mesh.now)["clients"]


def test_a_client_that_was_silent_while_the_broker_was_held_up_is_given_that_time() -> None:
    mesh = Harness(session_idle_s=30)
    client = mesh.client()
    mesh.advance(29.0)
    mesh.feed(events.HeldUp(20.0))
    mesh.advance(15.0)
    assert 1 == mesh.core.status(mesh.now)["clients"]
    mesh.feed(events.HeldUp(1000.0))  # nobody was heard later than now
    mesh.advance(31.0)
    assert 0 == mesh.core.status(mesh.now)["clients"]
    assert client.route not in mesh.core._state.clients


def test_a_client_that_is_away_while_the_broker_is_held_up_is_given_that_time() -> None:
    mesh = Harness(away_s=5.0)
    client = mesh.client()
    mesh.feed(events.ClientUnreachable(client.route, []))
    mesh.advance(4.0)
    mesh.feed(events.HeldUp(3.0))
    mesh.advance(3.5)
    assert 1 == mesh.core.status(mesh.now)["clients"]
    mesh.advance(1.5)
    assert 0 == mesh.core.status(mesh.now)["clients"]


def test_a_client_that_has_been_silent_for_its_time_is_forgotten_with_the_next_look() -> None:
    mesh = Harness(session_idle_s=30)
    mesh.client()
    looks: list[float] = []
    while mesh.core.status(mesh.now)["clients"]:
        due = mesh.core.next_wakeup()
        assert due is not None
        mesh.now = max(mesh.now, due)
        looks.append(mesh.now - 100.0)
        mesh.feed(events.Wakeup())
    assert pytest.approx(30.0, abs=0.1) == looks[-1]


def test_answers_for_a_client_that_is_away_may_take_just_as_much_as_is_allowed() -> None:
    for more, kept in ((0, True), (1, False)):
        mesh = Harness(client_max_bytes=1000)
        worker = mesh.worker()
        client = mesh.client()
        client.request(ms=600_000)
        (job,) = worker.jobs()
        mesh.feed(events.ClientUnreachable(client.route, []))
        worker.finish(job, body=[b"x" * (1000 - AWAY_MESSAGE_BYTES + more)])
        mesh.advance(2.0)
        assert kept == bool(mesh.core.status(mesh.now)["clients"])


def test_the_state_of_a_stream_is_its_last_frame_and_a_chunk_of_before_costs_its_reader_nothing() -> None:
    mesh = Harness()
    worker = mesh.worker()
    job, frames = resume(mesh, worker, 3, b"body", b"buffer", b"state")
    assert (3, 0, Flag.RESUMABLE | Flag.RESUMED | Flag.RESEND) == (job.seen, job.window, job.flags)
    assert [b"body", b"buffer", b"state"] == frames
    worker.say(messages.Chunk(job.job_id, 2), BODY)
    assert [messages.Credit(job.job_id, 1)] == [message for message, _ in worker.take()]


def test_the_state_of_a_reader_that_has_nothing_is_left_out() -> None:
    mesh = Harness()
    job, frames = resume(mesh, mesh.worker(), 0, b"body", b"", window=2)
    assert (0, 2, Flag.RESUMABLE | Flag.RESEND, [b"body"]) == (job.seen, job.window, job.flags, frames)


def test_a_worker_that_waited_for_readers_has_its_time_for_what_comes_then() -> None:
    mesh = Harness(stall_s=10.0, credit_s=1000.0)
    worker = mesh.worker(slots=2)
    client, job = stream(mesh, worker, window=1)
    worker.say(messages.Chunk(job.job_id, 0), BODY)
    for _ in range(30):
        mesh.advance(1.0)
        worker.beat(moved=False)
    client.request(ms=600_000)
    for _ in range(5):
        mesh.advance(1.0)
        worker.beat(moved=False)
    assert 0 == mesh.counts["workers_stalled"]
