"""Streams that are cut off go on from what their reader has: nothing is missing or comes twice, and all have an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.entities import PROGRESS_CHUNKS
from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag
from tests.core.harness import BODY, Client, Harness, Worker

STREAM = 1
RESEND = Flag.RESUMABLE | Flag.RESEND | Flag.RESUMED


def streaming(
    chunks: int = 3, window: int = 8, flags: int = Flag.RESUMABLE, **config: Any
) -> tuple[Harness, Worker, Client, Any]:
    """Return a mesh in which the client's request 1 is a stream of which so many chunks were sent to it."""
    mesh = Harness(**config)
    worker, client = mesh.worker("first"), mesh.client()
    client.request(window=window, flags=flags)
    (job,) = worker.jobs()
    send(worker, job, range(chunks))
    client.take()
    return mesh, worker, client, job


def send(worker: Worker, job: Any, seqs: range) -> None:
    for seq in seqs:
        worker.say(messages.Chunk(job.job_id, seq), [b"chunk"])


def resend(
    client: Client, seen: int, window: int = 8, *, flags: int = RESEND, frames: Sequence[bytes] | None = None
) -> None:
    body = [*BODY, state(seen)] if frames is None else frames
    client.say(messages.Request(STREAM, "echo", "", 1, 60_000, flags, window, b"", "", seen), body)


def state(seen: int) -> bytes:
    return b"state of %d" % seen


def come_back(client: Client) -> None:
    client.route += b"'"
    client.hello("epoch-1")


def lose_connection(client: Client, *unsent: Any) -> None:
    client.harness.feed(events.ClientUnreachable(client.route, [(message, [b"chunk"]) for message in unsent]))


def read(client: Client) -> list[Any]:
    """Return what came for the stream: numbers of chunks, and other messages as they are."""
    about = [m for m, _ in client.take() if not isinstance(m, messages.Welcome | messages.Ping)]
    return [m.seq if isinstance(m, messages.Chunk) else m for m in about]


def jobs_with_frames(worker: Worker) -> list[tuple[Any, list[bytes]]]:
    return [(m, list(frames)) for m, frames in worker.take() if isinstance(m, messages.Job)]


def by_death(mesh: Harness, worker: Worker, job: Any) -> None:
    worker.die([job.job_id])


def by_goodbye(mesh: Harness, worker: Worker, job: Any) -> None:
    worker.say(messages.Bye("told to hurry"))


def by_silence(mesh: Harness, worker: Worker, job: Any) -> None:
    mesh.advance(5.5)


def by_stall(mesh: Harness, worker: Worker, job: Any) -> None:
    for _ in range(31):
        mesh.advance(1)
        worker.beat(moved=False)


def by_a_new_connection(mesh: Harness, worker: Worker, job: Any) -> None:
    worker.route += b"'"
    worker.returning([(b"c".ljust(16, b"-"), STREAM)])
    assert [messages.Cancel(job.job_id)] == [m for m, _ in worker.take() if not isinstance(m, messages.Welcome)]


LOSSES = [by_death, by_goodbye, by_silence, by_stall, by_a_new_connection]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_stream_that_is_cut_off_goes_on_elsewhere_from_what_its_reader_has(
    lose: Callable[[Harness, Worker, Any], None],
) -> None:
    mesh, worker, client, job = streaming()
    lose(mesh, worker, job)
    assert [messages.Again(STREAM, 3)] == read(client)
    assert 1 == mesh.core.status(mesh.now)["counters"]["asked"]
    second = worker if lose is by_a_new_connection else mesh.worker("second")
    assert [] == second.jobs()
    resend(client, 3, window=5)
    ((again, frames),) = jobs_with_frames(second)
    assert (2, 3, 5) == (again.attempt, again.seen, again.window)
    assert Flag.RESUMABLE | Flag.RESUMED == again.flags & (Flag.RESUMABLE | Flag.RESUMED | Flag.RESEND)
    assert [*BODY, state(3)] == frames
    send(second, again, range(3, 6))
    second.say(messages.Final(again.job_id, 2, 5, 50, 0, 6), BODY)
    *chunks, final = read(client)
    assert [3, 4, 5] == chunks
    assert 6 == final.chunks
    assert (1, 1) == (mesh.counts["again"], mesh.counts["resumed"])


def test_a_stream_of_which_nothing_came_yet_needs_no_state() -> None:
    mesh, worker, client, job = streaming(chunks=0)
    worker.die([job.job_id])
    ((again, frames),) = jobs_with_frames(mesh.worker("second"))
    assert (0, BODY) == (again.seen, frames)
    assert [] == read(client)


def test_a_stream_that_is_lost_again_before_it_gave_anything_goes_on_from_the_same_state() -> None:
    mesh, worker, client, _ = streaming(deaths_max=5)
    for name in ("second", "third"):
        worker.die()
        worker = mesh.worker(name)
        if name == "second":
            resend(client, 3)
        ((job, frames),) = jobs_with_frames(worker)
        assert (3, state(3)) == (job.seen, frames[-1])
    assert 1 == mesh.counts["again"]
    send(worker, job, range(3, 5))
    client.take()
    worker.die()
    assert [messages.Again(STREAM, 5)] == read(client)


def test_a_state_that_was_given_back_unused_is_used_by_the_next_worker() -> None:
    mesh, worker, client, _ = streaming()
    worker.die()
    second = mesh.worker("second")
    resend(client, 3)
    (job,) = second.jobs()
    third = mesh.worker("third")
    second.say(messages.Quiet(True))
    second.say(messages.Return(job.job_id, "draining"))
    ((again, frames),) = jobs_with_frames(third)
    assert (3, state(3)) == (again.seen, frames[-1])
    assert 1 == mesh.counts["again"]


def test_a_suspect_goes_on_alone_and_what_kills_two_workers_is_quarantined_by_what_was_asked_first() -> None:
    mesh, worker, client, job = streaming()
    worker.die([job.job_id])
    second = mesh.worker("second")
    resend(client, 3)
    ((again, _),) = jobs_with_frames(second)
    assert again.flags & Flag.ALONE
    client.take()
    second.die([again.job_id])
    assert {STREAM: "POISON_REQUEST"} == client.answers()
    mesh.worker("third")
    repeated = client.request(window=4, request_id=7)
    other = client.request(window=4, body=[b"other"], request_id=8)
    assert {repeated: "POISON_REQUEST"} == client.answers()
    client.say(messages.Request(9, "echo", "", 1, 60_000, RESEND, 4, b"", "", 2), [*BODY, b"another state"])
    assert {9: "POISON_REQUEST"} == client.answers()
    assert other in client.harness.core._state.sessions[client.session].outstanding


def test_a_stream_that_got_on_with_its_second_worker_is_no_suspect_any_more() -> None:
    _, worker, client, job = streaming(chunks=1, window=64)
    for life in range(5):
        worker.die([job.job_id])
        worker = client.harness.worker(f"next {life}")
        seen = 1 + life * PROGRESS_CHUNKS
        resend(client, seen, window=64)
        ((job, _),) = jobs_with_frames(worker)
        assert job.flags & Flag.ALONE
        send(worker, job, range(seen, seen + PROGRESS_CHUNKS))
        client.take()
    worker.say(messages.Final(job.job_id, 1, 0, 0, 0, 0), BODY)
    assert {STREAM: "OK"} == client.answers()


def test_too_little_progress_clears_nothing() -> None:
    mesh, worker, client, job = streaming(chunks=1)
    worker.die([job.job_id])
    second = mesh.worker("second")
    resend(client, 1)
    ((again, _),) = jobs_with_frames(second)
    send(second, again, range(1, PROGRESS_CHUNKS))
    client.take()
    second.die([again.job_id])
    assert {STREAM: "POISON_REQUEST"} == client.answers()


def test_only_attempts_without_progress_are_counted_against_a_stream() -> None:
    mesh, worker, client, job = streaming(chunks=PROGRESS_CHUNKS, window=64, attempts_max=2)
    for life in range(2):
        worker.die()
        resend(client, PROGRESS_CHUNKS, window=64)
        worker = mesh.worker(f"next {life}")
    assert [job.job_id] != worker.jobs()
    worker.die()
    assert {STREAM: "WORKER_LOST"} == client.answers()


def test_at_most_once_is_not_asked_for_again() -> None:
    _, worker, client, _ = streaming(flags=Flag.RESUMABLE | Flag.AT_MOST_ONCE)
    worker.die()
    assert {STREAM: "WORKER_LOST"} == client.answers()


def test_a_stream_that_was_given_to_too_many_workers_is_not_asked_for_again() -> None:
    _, worker, client, _ = streaming(attempts_max=1)
    worker.die()
    assert {STREAM: "WORKER_LOST"} == client.answers()


def asked(**config: Any) -> tuple[Harness, Client]:
    mesh, worker, client, _ = streaming(**config)
    worker.die()
    assert [messages.Again(STREAM, 3)] == read(client)
    return mesh, client


def nothing_is_left(mesh: Harness) -> None:
    assert 0 == mesh.core.status(mesh.now)["counters"]["asked"]
    assert [] == mesh.worker("late").jobs()


def test_a_client_that_is_asked_may_cancel() -> None:
    mesh, client = asked()
    client.say(messages.Cancel(STREAM))
    assert {STREAM: "CANCELLED"} == client.answers()
    nothing_is_left(mesh)


def test_a_client_that_does_not_answer_has_its_deadline() -> None:
    mesh, client = asked()
    for _ in range(61):
        client.say(messages.Ping(1))
        mesh.advance(1)
    assert {STREAM: "DEADLINE_EXCEEDED"} == client.answers()
    nothing_is_left(mesh)


def test_a_client_that_is_asked_may_leave() -> None:
    mesh, client = asked()
    client.say(messages.Bye("closed"))
    nothing_is_left(mesh)


def test_a_client_that_is_asked_and_stays_away_is_given_up() -> None:
    mesh, client = asked()
    lose_connection(client)
    mesh.advance(6)
    nothing_is_left(mesh)


def test_a_client_that_was_away_when_it_was_asked_is_asked_when_it_is_back() -> None:
    mesh, worker, client, job = streaming()
    lose_connection(client, messages.Chunk(STREAM, 2))
    send(worker, job, range(3, 4))
    worker.die()
    second = mesh.worker("second")
    come_back(client)
    assert [2, 3, messages.Again(STREAM, 4)] == read(client)
    # It was on its way when the kept chunks were: the reader has more by now.
    resend(client, 2)
    assert [] == second.jobs()
    resend(client, 4)
    ((again, frames),) = jobs_with_frames(second)
    assert (4, state(4)) == (again.seen, frames[-1])


def test_a_client_that_lost_the_question_answers_it_by_coming_back() -> None:
    mesh, client = asked()
    second = mesh.worker("second")
    come_back(client)
    resend(client, 3)
    assert [3] == [job.seen for job in second.jobs()]


def test_a_client_that_lost_the_question_and_chunks_with_it_goes_on_from_what_it_has() -> None:
    mesh, client = asked()
    second = mesh.worker("second")
    come_back(client)
    resend(client, 1)
    ((job, frames),) = jobs_with_frames(second)
    assert (1, state(1)) == (job.seen, frames[-1])
    send(second, job, range(1, 3))
    assert [1, 2] == read(client)


def test_an_answer_that_comes_twice_does_no_harm() -> None:
    mesh, client = asked()
    second = mesh.worker("second", slots=4)
    resend(client, 3)
    (job,) = second.jobs()
    resend(client, 3)
    send(second, job, range(3, 5))
    resend(client, 3)
    assert [] == second.take()
    assert [3, 4] == read(client)
    resend(client, 5, window=8)
    assert [messages.Credit(job.job_id, 2)] == [m for m, _ in second.take()]


def test_a_waiting_reader_is_not_called_slow_and_one_without_room_is_once_more() -> None:
    mesh, worker, client, _ = streaming(chunks=3, window=3)
    worker.die()
    for _ in range(12):
        client.say(messages.Ping(1))
        mesh.advance(1)
    assert {} == client.answers()
    second = mesh.worker("second")
    resend(client, 3, window=0)
    (job,) = second.jobs()
    assert (3, 0) == (job.seen, job.window)
    for _ in range(12):
        second.beat()
        client.say(messages.Ping(1))
        mesh.advance(1)
    assert {STREAM: "SLOW_CONSUMER"} == client.answers()


def test_credit_that_comes_while_the_client_is_asked_is_replaced_by_its_answer() -> None:
    mesh, client = asked()
    client.say(messages.Credit(STREAM, 4))
    resend(client, 3, window=6)
    (job,) = mesh.worker("second").jobs()
    assert 6 == job.window


def test_without_a_worker_in_time_there_is_none() -> None:
    mesh, client = asked()
    for _ in range(8):
        client.say(messages.Ping(1))
        mesh.advance(1)
    resend(client, 3)
    mesh.advance(5.1)
    assert {STREAM: "NO_WORKER"} == client.answers()


def test_lost_chunks_are_computed_from_the_state_that_came_with_the_news() -> None:
    mesh, worker, client, job = streaming()
    come_back(client)
    client.take()
    send(worker, job, range(3, 5))
    resend(client, 1, window=8)
    (cancel, _), (again, frames) = worker.take()
    assert (messages.Cancel(job.job_id), 1, 8) == (cancel, again.seen, again.window)
    assert [*BODY, state(1)] == list(frames)
    # The reader saw a gap and says so; what it says is known already.
    resend(client, 1, window=8)
    send(worker, again, range(1, 3))
    resend(client, 1, window=8)
    assert [3, 4, 1, 2] == read(client)
    assert [] == worker.take()
    assert 0 == mesh.counts["again"]


def test_a_reader_whose_last_chunk_came_but_not_the_end_goes_on_behind_that_chunk() -> None:
    _, worker, client, job = streaming()
    lose_connection(client, messages.Chunk(STREAM, 2))
    worker.say(messages.Final(job.job_id, 1, 5, 50, 0, 3), BODY)
    come_back(client)
    resend(client, 2)
    (again,) = worker.jobs()
    assert [2] == [seq for seq in read(client) if isinstance(seq, int)]
    come_back(client)
    resend(client, 3)
    (cancel, _), (once_more, frames) = worker.take()
    assert (messages.Cancel(again.job_id), 3, state(3)) == (cancel, once_more.seen, frames[-1])


def test_chunks_that_were_kept_for_a_reader_that_was_away_are_not_computed_again() -> None:
    _, worker, client, job = streaming()
    lose_connection(client, messages.Chunk(STREAM, 2), messages.Credit(STREAM, 1))
    send(worker, job, range(3, 4))
    come_back(client)
    resend(client, 2, window=8)
    assert [2, 3] == [seq for seq in read(client) if isinstance(seq, int)]
    assert [messages.Credit(job.job_id, 2)] == [m for m, _ in worker.take()]


def test_a_greeting_that_is_repeated_on_the_same_connection_loses_nothing() -> None:
    _, worker, client, job = streaming()
    client.hello("epoch-1")
    resend(client, 1)
    send(worker, job, range(3, 4))
    assert [] == [m for m, _ in worker.take() if not isinstance(m, messages.Credit)]
    assert [3] == read(client)


def test_a_stream_that_waits_takes_the_state_of_a_reader_that_lost_chunks() -> None:
    mesh, client = asked()
    resend(client, 3)
    come_back(client)
    resend(client, 2, window=4)
    ((job, frames),) = jobs_with_frames(mesh.worker("second"))
    assert (2, 4, state(2)) == (job.seen, job.window, frames[-1])


def test_a_broker_that_knows_nothing_goes_on_from_the_state_of_the_request() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client(last_epoch="epoch-0")
    resend(client, 2, window=4)
    ((job, frames),) = jobs_with_frames(worker)
    assert (2, 4, [*BODY, state(2)]) == (job.seen, job.window, frames)
    send(worker, job, range(2, 4))
    assert [2, 3] == read(client)
    worker.die()
    assert [messages.Again(STREAM, 4)] == read(client)


def test_a_request_with_chunks_is_a_stream_though_its_reader_has_no_room() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client(last_epoch="epoch-0")
    resend(client, 2, window=0)
    (job,) = worker.jobs()
    assert (2, 0) == (job.seen, job.window)
    client.say(messages.Credit(STREAM, 1))
    assert [messages.Credit(job.job_id, 1)] == [m for m, _ in worker.take()]


@pytest.mark.parametrize(
    ("flags", "frames"), [(Flag.RESUMABLE | Flag.RESEND, [*BODY, state(2)]), (RESEND, BODY), (RESEND, [])]
)
def test_what_the_reader_has_without_its_state_is_refused(flags: int, frames: list[bytes]) -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    resend(client, 2, flags=flags, frames=frames)
    assert {STREAM: "INVALID_REQUEST"} == client.answers()
    assert [] == worker.jobs()
    mesh, client = asked()
    resend(client, 3, flags=flags, frames=frames)
    assert {STREAM: "INVALID_REQUEST"} == client.answers()
    nothing_is_left(mesh)


def test_a_reader_that_has_nothing_left_may_begin_anew_without_a_state() -> None:
    mesh, client = asked()
    come_back(client)
    resend(client, 0, flags=Flag.RESUMABLE | Flag.RESEND, frames=BODY)
    ((job, frames),) = jobs_with_frames(mesh.worker("second"))
    assert (0, 8, BODY) == (job.seen, job.window, frames)
    assert not job.flags & Flag.RESUMED


def test_a_state_of_a_stream_that_is_not_resumable_is_no_state() -> None:
    mesh = Harness()
    worker, client = mesh.worker(), mesh.client()
    resend(client, 2, flags=Flag.RESUMED)
    ((job, frames),) = jobs_with_frames(worker)
    assert (0, 0, [*BODY, state(2)]) == (job.seen, job.flags, frames)


def test_states_count_among_the_bytes_that_are_held() -> None:
    mesh, client = asked(client_max_request_bytes=10_000)
    before = mesh.core.status(mesh.now)["counters"]["held_bytes"]
    resend(client, 3, frames=[*BODY, bytes(6000)])
    assert before + 6000 == mesh.core.status(mesh.now)["counters"]["held_bytes"]
    assert {} == client.answers()
    large = client.request(body=[bytes(5000)], request_id=5)
    assert {large: "OVERLOADED"} == client.answers()
    client.say(messages.Cancel(STREAM))
    assert 0 == mesh.core.status(mesh.now)["counters"]["held_bytes"]


@pytest.mark.parametrize("config", [{"client_max_request_bytes": 5000}, {"requests_max_bytes": 9000}])
def test_a_state_for_which_there_is_no_room_ends_the_stream(config: dict[str, int]) -> None:
    mesh, client = asked(**config)
    resend(client, 3, frames=[*BODY, bytes(6000)])
    assert {STREAM: "OVERLOADED"} == client.answers()
    nothing_is_left(mesh)


def test_a_large_state_is_refused_at_admission_and_gives_way_as_large_bodies_do() -> None:
    mesh = Harness(client_max_request_bytes=5000)
    client = mesh.client(last_epoch="epoch-0")
    resend(client, 3, frames=[*BODY, bytes(6000)])
    assert {STREAM: "OVERLOADED"} == client.answers()
    mesh = Harness(requests_max_bytes=20_000)
    client, other = mesh.client(last_epoch="epoch-0"), mesh.client("other", last_epoch="epoch-0")
    client.say(messages.Request(STREAM, "echo", "", 2, 60_000, RESEND, 4, b"", "", 3), [*BODY, bytes(9000)])
    urgent = other.request(lane=0, body=[bytes(9000)])
    assert {STREAM: "OVERLOADED"} == client.answers()
    assert {} == other.answers()
    assert urgent in mesh.core._state.sessions[other.session].outstanding
