"""The life of clients: greeting, going away, coming back, reading too slowly."""

from __future__ import annotations

import pytest

from mlx_mesh_broker.core import complaints, events, sessions
from mlx_mesh_broker.core.invariants import BrokenInvariantError
from mlx_mesh_wire import messages, unpack_body
from mlx_mesh_wire.messages import Flag
from tests.core.harness import BODY, Harness


def test_hello_is_answered_with_epoch_limits_and_intervals() -> None:
    mesh = Harness(client_max_outstanding=7)
    ((welcome, _),) = mesh.client().take()
    assert (welcome.major, welcome.epoch, welcome.limits["outstanding_max"]) == (1, "epoch-1", 7)
    assert {"ping_ms", "silent_ms", "beat_ms", "credit_ms"} <= welcome.intervals.keys()


def test_another_major_version_is_turned_away() -> None:
    mesh = Harness()
    mesh.feed(events.FromClient(b"r", messages.Hello(2, 0, b"s" * 16, "", ""), ()))
    error, bye = (message for message, _ in mesh.to_clients[b"r"])
    assert "protocol 1, the client speaks 2" in error.message
    assert isinstance(bye, messages.Bye)


def test_an_unknown_client_is_asked_to_greet_unless_it_says_goodbye() -> None:
    mesh = Harness()
    mesh.feed(events.FromClient(b"r", messages.Ping(1), ()))
    mesh.feed(events.FromClient(b"r", messages.Bye(""), ()))
    assert [messages.Reset("epoch-1")] == [m for m, _ in mesh.to_clients[b"r"]]


def test_what_is_not_for_clients_to_send_is_complained_about_once_a_second() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    for _ in range(5):
        client.say(messages.Quiet(True))
    assert len(client.take()) == 1
    mesh.advance(1.1)
    mesh.feed(events.BadClientMessage(client.route, "nonsense", 0, "PROTOCOL_ERROR"))
    assert client.take()[0][0].message == "nonsense"


def test_the_memory_of_complaints_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaints, "ROUTES_MAX", 3)
    mesh = Harness()
    for index in range(10):
        mesh.feed(events.BadClientMessage(b"r%d" % index, "nonsense", 0, "PROTOCOL_ERROR"))
    assert len(mesh.core._clients._complaints) == 3


def test_ping_and_status_are_answered() -> None:
    mesh = Harness()
    client = mesh.client()
    client.take()
    client.say(messages.Ping(9))
    client.say(messages.Pong(9))
    client.say(messages.Status(4))
    (pong, _), (final, frames) = client.take()
    assert messages.Pong(9) == pong
    assert final.id == 4
    assert unpack_body(frames)["epoch"] == "epoch-1"


def test_the_status_names_workers_queues_and_limits() -> None:
    mesh = Harness()
    mesh.worker(ops=["echo"], models=["m"], slots=3)
    client = mesh.client()
    client.request()
    mesh.client("other").request("nobody", flags=messages.Flag.WAIT_FOR_READY)
    status = mesh.core.status(mesh.now)
    (worker,) = status["workers"]
    assert tuple(worker[key] for key in ("name", "state", "ops", "models", "slots", "in_flight")) == (
        "w",
        "ready",
        ["echo"],
        ["m"],
        3,
        1,
    )
    queues = {queue["op"]: queue for queue in status["queues"]}
    assert queues["nobody"]["waiting"]["standard"] == 1
    assert {"outstanding": 2, "accepted": 2}.items() <= status["counters"].items()
    assert status["limits"]["queue_max_requests"] == 1024


def test_a_client_that_says_goodbye_takes_its_work_with_it() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    client.request()
    client.request()
    (job,) = worker.jobs()
    client.say(messages.Bye("done"))
    assert messages.Cancel(job.job_id) in [m for m, _ in worker.take()]
    assert mesh.core.status(mesh.now)["clients"] == 0


def test_answers_wait_for_a_client_that_lost_its_connection() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=4), mesh.client()
    first, second = client.request(), client.request()
    one, two = worker.jobs()
    worker.finish(one)
    (final, frames) = client.take()[-1]
    mesh.feed(events.ClientUnreachable(client.route, [(final, frames)]))
    mesh.feed(events.ClientUnreachable(client.route, [(final, frames)]))
    worker.finish(two)
    assert client.take() == []
    client.route = b"another connection"
    client.hello()
    assert {first: "OK", second: "OK"} == client.answers()


def test_what_was_answered_while_its_client_was_away_is_not_run_again_when_that_comes_back() -> None:
    mesh = Harness()
    worker, client = mesh.worker(slots=4), mesh.client()
    done, failed, stream = client.request(), client.request(), client.request(window=4)
    one, two, three = worker.jobs()
    mesh.feed(events.ClientUnreachable(client.route, []))
    worker.finish(one)
    worker.say(messages.Error(two.job_id, "ENGINE_ERROR", "broken", False, 0))
    worker.say(messages.Chunk(three.job_id, 0), [b"x"])
    worker.say(messages.Final(three.job_id, 1, 0, 0, 0, 1), [b""])
    client.route = b"another connection"
    client.hello()
    client.request(request_id=done, flags=Flag.RESEND)
    client.request(request_id=failed, flags=Flag.RESEND)
    assert [] == worker.jobs()
    client.request(request_id=stream, flags=Flag.RESEND, window=4)
    assert 1 == len(worker.jobs())
    client.hello()  # On yet another one, they may have been lost.
    client.request(request_id=done, flags=Flag.RESEND)
    assert 1 == len(worker.jobs())


@pytest.mark.parametrize("answer", ["OK", "ENGINE_ERROR"])
def test_an_answer_that_could_not_be_sent_is_that_of_the_request_which_was_sent_again_meanwhile(answer: str) -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request()
    (job,) = worker.jobs()
    if answer == "OK":
        worker.finish(job)
    else:
        worker.say(messages.Error(job.job_id, answer, "broken", False, 0))
    lost = client.take()[-1]
    client.request(request_id=request_id, flags=Flag.RESEND)
    (again,) = worker.jobs()
    mesh.feed(events.ClientUnreachable(client.route, [lost]))
    assert messages.Cancel(again.job_id) in [m for m, _ in worker.take()]
    client.route = b"another connection"
    client.hello()
    assert {request_id: answer} == client.answers()
    assert mesh.core.metrics.accepted == mesh.core.metrics.answered == 2


def test_a_client_that_stays_away_is_forgotten_with_its_work() -> None:
    mesh = Harness(away_s=5)
    worker, client = mesh.worker(), mesh.client()
    client.request()
    (job,) = worker.jobs()
    mesh.feed(events.ClientUnreachable(client.route, [(messages.Ping(0), ())]))
    mesh.advance(4)
    worker.beat()
    assert mesh.core.status(mesh.now)["clients"] == 1
    mesh.advance(2.5)
    assert mesh.core.status(mesh.now)["clients"] == 0
    assert messages.Cancel(job.job_id) in [m for m, _ in worker.take()]


def test_an_idle_client_that_loses_its_connection_is_forgotten_too() -> None:
    mesh = Harness(away_s=5)
    client = mesh.client()
    mesh.feed(events.ClientUnreachable(client.route, [(messages.Ping(0), ())]))
    mesh.advance(7)
    assert mesh.core.status(mesh.now)["clients"] == 0


def test_what_is_kept_for_a_client_that_is_away_is_bounded() -> None:
    mesh = Harness(client_max_bytes=1000, away_s=60)
    worker, client = mesh.worker(slots=4), mesh.client()
    client.request()
    client.request()
    jobs = worker.jobs()
    mesh.feed(events.ClientUnreachable(client.route, [(messages.Ping(0), ())]))
    worker.finish(*jobs, body=[b"x" * 600])
    mesh.advance(1.5)
    assert mesh.core.status(mesh.now)["clients"] == 0


def test_a_client_with_work_that_says_nothing_is_pinged_which_shows_if_it_is_gone() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client()
    client.request()
    client.take()
    mesh.advance(1.2)
    assert [messages.Ping(0)] == [m for m, _ in client.take()]
    client.say(messages.Pong(0))
    mesh.advance(0.5)
    assert client.take() == []


def test_an_idle_client_is_left_alone_and_forgotten_after_long_silence() -> None:
    mesh = Harness(session_idle_s=90)
    silent, chatty = mesh.client("silent"), mesh.client("chatty")
    silent.take()
    for _ in range(10):
        mesh.advance(10)
        chatty.say(messages.Ping(1))
    assert silent.take() == []
    assert mesh.core.status(mesh.now)["clients"] == 1


def test_a_connection_that_greets_as_somebody_else_ends_the_first_session() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client()
    request_id = client.request()
    client.take()
    client.session = b"someone else----"
    client.hello()
    assert {request_id: "CANCELLED"} == client.answers()
    assert mesh.core.status(mesh.now)["clients"] == 1


def test_greeting_twice_is_harmless() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request()
    client.hello()
    worker.finish(*worker.jobs())
    assert {request_id: "OK"} == client.answers()


def test_there_are_so_many_clients_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    mesh = Harness()
    mesh.worker()
    for name in ("a", "b"):
        mesh.client(name).request()
    ((error, _),) = mesh.client("c").take()
    assert (error.id, error.code) == (0, "OVERLOADED")


def test_clients_without_work_make_room_for_new_ones_the_most_silent_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 3)
    mesh = Harness()
    worker = mesh.worker()
    busy, silent, heard = (mesh.client(name) for name in ("busy", "silent", "heard"))
    request_id = busy.request()
    mesh.advance(1.0)
    heard.say(messages.Ping(1))
    new = mesh.client("new")
    assert [messages.Welcome] == [type(message) for message, _ in new.take()]
    silent.take()
    for client, answer in ((silent, messages.Reset), (heard, messages.Pong)):
        client.take()
        client.say(messages.Ping(2))
        assert answer is type(client.take()[-1][0])
    worker.finish(*worker.jobs())
    assert {request_id: "OK"} == busy.answers()


def test_a_client_that_does_not_read_loses_its_work() -> None:
    mesh = Harness()
    mesh.worker()
    client = mesh.client()
    request_id = client.request()
    client.take()
    mesh.feed(events.ClientClogged(client.route))
    mesh.feed(events.ClientClogged(client.route))
    assert {request_id: "SLOW_CONSUMER"} == client.answers()


def test_chunks_are_passed_on_in_order_and_credit_goes_to_the_worker() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request(window=2)
    (job,) = worker.jobs()
    assert job.window == 2
    client.take()
    for seq in range(2):
        worker.say(messages.Chunk(job.job_id, seq), BODY)
    assert [messages.Chunk(request_id, seq) for seq in range(2)] == [m for m, _ in client.take()]
    client.say(messages.Credit(request_id, 3))
    client.say(messages.Credit(999, 3))
    assert [messages.Credit(job.job_id, 3)] == [m for m, _ in worker.take()]
    worker.finish(job)
    client.say(messages.Credit(request_id, 1))
    assert {request_id: "OK"} == client.answers()


def test_credit_for_a_queued_stream_is_part_of_its_window() -> None:
    mesh = Harness(prefetch=0)
    worker, client = mesh.worker(), mesh.client()
    client.request()
    stream = client.request(window=2)
    client.say(messages.Credit(stream, 3))
    worker.finish(*worker.jobs())
    (job,) = worker.jobs()
    assert job.window == 5


def test_credit_for_what_is_no_stream_and_chunks_of_what_is_none_are_ignored() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request()
    (job,) = worker.jobs()
    client.take()
    client.say(messages.Credit(request_id, 3))
    worker.say(messages.Chunk(job.job_id, 0), BODY)
    assert worker.take() == []
    assert client.take() == []


def test_a_stream_goes_on_elsewhere_without_repeating_what_was_delivered() -> None:
    mesh = Harness()
    first, client = mesh.worker("first"), mesh.client()
    request_id = client.request(window=8)
    (job,) = first.jobs()
    for seq in range(3):
        first.say(messages.Chunk(job.job_id, seq), BODY)
    client.take()
    second = mesh.worker("second")
    first.die(running=[])
    (again,) = second.jobs()
    assert again.window == 5
    for seq in range(5):
        second.say(messages.Chunk(again.job_id, seq), BODY)
    second.finish(again)
    assert [messages.Credit(again.job_id, 1)] * 3 == [m for m, _ in second.take()]
    chunks = [m for m, _ in client.take()]
    assert [m.seq for m in chunks[:2]] == [3, 4]
    assert (request_id, 2) == (chunks[2].id, chunks[2].attempts)


def test_a_worker_that_skips_a_chunk_ends_the_stream_with_an_error() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    request_id = client.request(window=8)
    (job,) = worker.jobs()
    client.take()
    worker.say(messages.Chunk(job.job_id, 1), BODY)
    assert {request_id: "INTERNAL"} == client.answers()


def test_chunks_beyond_the_credit_are_counted() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    client.request(window=1)
    (job,) = worker.jobs()
    worker.say(messages.Chunk(job.job_id, 0), BODY)
    worker.say(messages.Chunk(job.job_id, 1), BODY)
    assert mesh.counts["credit_overruns"] == 1


def test_a_reader_that_grants_no_credit_for_long_is_cut_off() -> None:
    mesh = Harness(credit_s=10)
    worker, client = mesh.worker(slots=2), mesh.client()
    slow, steady = client.request(window=1), client.request(window=1)
    for job in worker.jobs():
        worker.say(messages.Chunk(job.job_id, 0), BODY)
    client.take()
    for second in range(12):
        worker.beat()
        client.say(messages.Credit(steady, 1) if second == 5 else messages.Pong(0))
        mesh.advance(1)
    assert {slow: "SLOW_CONSUMER"} == client.answers()


def test_an_inconsistent_core_is_noticed() -> None:
    mesh = Harness()
    mesh.worker()
    mesh.client().request()
    mesh.core.metrics.accepted += 1
    with pytest.raises(BrokenInvariantError, match="accepted = answered"):
        mesh.core.check_invariants()


def test_a_client_that_comes_back_leaves_the_connection_of_another_that_has_its_old_route() -> None:
    mesh = Harness()
    worker = mesh.worker()
    client, other = mesh.client("a"), mesh.client("b")
    mesh.feed(events.ClientUnreachable(client.route, ()))
    other.route = client.route
    other.hello()
    client.route = b"a new connection"
    client.hello()
    other.request()
    worker.finish(*worker.jobs())
    assert {1: "OK"} == other.answers()


def test_of_a_client_that_leaves_nothing_is_begun_for_a_place_that_falls_free_by_that() -> None:
    mesh = Harness(prefetch=0)
    worker, client, other = mesh.worker(ops=("embed",), pure=("embed",)), mesh.client(), mesh.client("other")
    for _ in range(3):
        client.request("embed")
    client.request("embed", flags=Flag.FRESH)
    kept = other.request("embed", flags=Flag.FRESH)
    (job,) = worker.jobs()
    client.say(messages.Bye("over"))
    cancel, begun = [message for message, _ in worker.take()]
    assert messages.Cancel(job.job_id) == cancel
    assert (other.session, kept) == (begun.session, begun.request_id)
