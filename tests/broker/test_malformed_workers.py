"""Whatever arrives at the backend gets what the specification says, and no client notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgpack
import psutil
import pytest

from mlx_mesh import Mesh
from mlx_mesh_wire import limits, messages, unpack_body
from tests.broker.dealer import Dealer, dealer
from tests.live import PATIENCE_S, LiveMesh, Process, until

READY = [33, 1, 0, b"i" * 16, "w", "h", "m", 1, 0, ["by-hand"], [], [], 1, 0, {}, 0]


def header(*fields: Any) -> bytes:
    return bytes(msgpack.packb(fields))


def changed(index: int, value: Any) -> bytes:
    return header(*READY[:index], value, *READY[index + 1 :])


@pytest.fixture
def peer(mesh: LiveMesh, bystander: Mesh) -> Iterator[Dealer]:
    """A worker's connection of its own for each test; afterwards it is gone, and somebody else makes a call."""
    with dealer(mesh, "backend") as made:
        yield made
        made.say(messages.Bye("done"))
        until(lambda: ["w"] == [worker["name"] for worker in bystander.status()["workers"]], "the worker to be gone")
    assert bystander.call("echo", "undisturbed", timeout=PATIENCE_S) == "undisturbed"


@pytest.fixture
def client(mesh: LiveMesh, bystander: Mesh) -> Iterator[Dealer]:
    with dealer(mesh) as made:
        made.hello()
        yield made


def job(peer: Dealer) -> messages.Job:
    return peer.take(messages.Job)[0]


MALFORMED = {
    "an empty frame": [b""],
    "bytes that msgpack never uses": [b"\xc1", b"\xc1"],
    "an array that ends early": [b"\x9a\x21"],
    "a header of over 4 KiB": [header(37, b"x" * limits.HEADER_MAX_BYTES)],
    "too many frames": [header(37, 1, 0, False, [], [], {}), *[b""] * limits.FRAMES_MAX],
    "too many bytes": [header(5, 1, 1, 0, 0, 0, 0), *[bytes(13 << 20)] * 5],
    "a READY without ops": [changed(9, [])],
    "a READY with too many ops": [changed(9, ["x"] * 65)],
    "a READY with an op that is bytes": [changed(9, [b"x"])],
    "a READY with a short instance": [changed(3, b"i")],
    "a READY of pid 0": [changed(7, 0)],
    "a READY with no slots": [changed(12, 0)],
    "a READY with too many slots": [changed(12, 4097)],
    "a READY with versions that are no text": [changed(14, {"mlx": 1})],
    "a READY with keys that are no text": [changed(14, {1: "x"})],
    "a READY with a missing field": [header(*READY[:-1])],
    "a HELD with half an entry": [header(34, b"i" * 16, [[b"s" * 16]])],
    "a HELD with a request id of 0": [header(34, b"i" * 16, [[b"s" * 16, 0, 1]])],
    "a HELD with too many entries": [header(34, b"i" * 16, [[b"s" * 16, 1, 1]] * 101)],
    "a BEAT with negative memory": [header(37, 1, 0, False, [], [], {"rss": -1})],
    "a BEAT with too many models": [header(37, 1, 0, False, [], ["x"] * 65, {})],
    "a FINAL of job 0": [header(5, 0, 1, 0, 0, 0, 0)],
    "an ERROR without a code": [header(6, 1, "", "", False, 0)],
    "a CHUNK with a sequence that is a float": [header(4, 1, 0.0)],
}


@pytest.mark.parametrize("frames", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_answered_with_protocol_error_and_the_worker_goes_on(
    peer: Dealer, client: Dealer, frames: list[bytes]
) -> None:
    peer.ready(ops=["by-hand"])
    peer.raw(*frames)
    assert peer.error(0).code == "PROTOCOL_ERROR"
    request = client.request("by-hand", "still")
    peer.say(messages.Final(job(peer).job_id, 1, 0, 0, 0), b"\xa5still")
    assert client.answer(request) == "still"


@pytest.mark.parametrize(
    "message",
    [
        messages.Hello(1, 0, b"s" * 16, "", ""),
        messages.Request(1, "echo", "", 1, 1000, 0, 0, b"", ""),
        messages.Status(1),
        messages.Credit(1, 1),
        messages.Cancel(1),
        messages.Again(1, 0),
        messages.Job(1, 1, b"s" * 16, 1, "echo", "", 1, 1, 0, 0, b"", ""),
        messages.Trim(1),
        messages.Dump("why"),
        messages.Command(1, "status"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_not_for_workers_to_send_is_refused_by_name_or_reset_before_ready(peer: Dealer, message: Any) -> None:
    peer.say(message, b"\xc0")
    assert peer.take(messages.Reset)
    peer.ready(ops=["by-hand"])
    peer.say(message, b"\xc0")
    assert peer.error(0).message == f"{type(message).__name__} is not for workers to send"


def test_unknown_types_and_trailing_fields_are_ignored(peer: Dealer, client: Dealer) -> None:
    peer.raw(header(*READY, "later", {"x": 1}))
    peer.take(messages.Welcome)
    peer.raw(header(60, "what is this"), b"\xc1")
    request = client.request("by-hand", 1)
    peer.raw(header(5, job(peer).job_id, 1, 0, 0, 0, 0, "later"), b"\x01")
    assert client.answer(request) == 1
    assert peer.settle() == []


def test_answers_to_jobs_that_it_does_not_hold_reach_nobody(peer: Dealer, client: Dealer, bystander: Mesh) -> None:
    peer.ready(ops=["by-hand"])
    request = client.request("by-hand", 1)
    held = job(peer).job_id
    late = bystander.status()["counters"].get("late_answers", 0)
    for stray in (held + 1, held + 10**6, 2**53 - 1):
        peer.say(messages.Final(stray, 1, 0, 0, 0), b"\x02")
        peer.say(messages.Chunk(stray, 0), b"\x02")
        peer.say(messages.Error(stray, "INTERNAL", "no", False, 0))
        peer.say(messages.Return(stray, ""))
    peer.settle()
    assert 12 == bystander.status()["counters"]["late_answers"] - late
    peer.say(messages.Final(held, 1, 0, 0, 0), b"\x01")
    peer.say(messages.Final(held, 1, 0, 0, 0), b"\x03")
    assert client.answer(request) == 1
    assert client.settle() == []


def test_a_worker_cannot_answer_for_another(mesh: LiveMesh, peer: Dealer, client: Dealer) -> None:
    peer.ready(ops=["by-hand"])
    request = client.request("by-hand", 1)
    held = job(peer).job_id
    with dealer(mesh, "backend") as other:
        other.ready(ops=["other"])
        other.say(messages.Final(held, 1, 0, 0, 0), b"\x02")
        other.settle()
        other.leave()
    peer.say(messages.Final(held, 1, 0, 0, 0), b"\x01")
    assert client.answer(request) == 1


def test_a_final_without_a_body_and_a_body_that_is_garbage_come_through_as_they_are(
    peer: Dealer, client: Dealer
) -> None:
    peer.ready(ops=["by-hand"])
    for frames in ([], [b"\xc1"], [b"", b"", b"x"]):
        request = client.request("by-hand", 1)
        peer.say(messages.Final(job(peer).job_id, 1, 0, 0, 0), *frames)
        assert client.take(messages.Final, of=request)[1] == frames


def test_a_chunk_that_skips_one_ends_the_stream_with_an_error(peer: Dealer, client: Dealer) -> None:
    peer.ready(ops=["by-hand"])
    request = client.request("by-hand", 1, window=8)
    held = job(peer).job_id
    peer.say(messages.Chunk(held, 0), b"\x01")
    peer.say(messages.Chunk(held, 2), b"\x01")
    assert client.take(messages.Chunk, of=request)[0].seq == 0
    error = client.error(request)
    assert (error.code, error.message) == ("INTERNAL", "the worker skipped chunk 1")
    assert peer.take(messages.Cancel, of=held)


def test_an_error_code_of_a_later_version_is_passed_on(peer: Dealer, client: Dealer) -> None:
    peer.ready(ops=["by-hand"])
    request = client.request("by-hand", 1)
    peer.say(messages.Error(job(peer).job_id, "BRAND_NEW", "text", True, 5), b"\x81\xa1x\x01")
    message, frames = client.take(messages.Error, of=request)
    assert (message.code, message.retryable, unpack_body(frames)) == ("BRAND_NEW", True, {"x": 1})


def test_another_major_version_is_refused_with_both_versions_and_a_goodbye(peer: Dealer) -> None:
    peer.raw(changed(1, 7))
    assert peer.error(0).message == "this broker speaks protocol 1, the worker speaks 7"
    assert peer.take(messages.Bye)


def test_a_peer_hears_at_most_one_complaint_a_second(mesh: LiveMesh, peer: Dealer) -> None:
    peer.ready(ops=["by-hand"])
    began = time.monotonic()
    for _ in range(100):
        peer.raw(b"\xc1")
    heard = [message for message in peer.settle() if isinstance(message, messages.Error)]
    assert 1 <= len(heard) <= 1 + int(time.monotonic() - began + 1)


@pytest.mark.slow
def test_workers_that_come_and_go_leave_nothing_behind(mesh: LiveMesh, bystander: Mesh, broker: Process) -> None:
    process = psutil.Process(broker.pid)

    def come_and_go() -> None:
        for number in range(60):
            with dealer(mesh, "backend") as peer:
                peer.say(messages.Held(peer.session, [[b"s" * 16, n + 1, 1] for n in range(100)]))
                peer.ready(ops=["by-hand"], name=f"w{number}", models=[f"model-{number}"])
                peer.leave()

    come_and_go()
    descriptors, memory = process.num_fds(), process.memory_info().rss
    come_and_go()
    until(lambda: process.num_fds() <= descriptors + 2, "descriptors to be given back")
    until(lambda: process.memory_info().rss - memory < 4 << 20, "memory to be given back")
    assert len(bystander.status()["workers"]) == 1
