"""Whatever arrives at the frontend gets what the specification says, and nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgpack
import psutil
import pytest

from mlx_mesh import Mesh
from mlx_mesh_wire import encode_header, limits, messages, pack_body, unpack_body
from tests.broker.dealer import Dealer, dealer
from tests.live import PATIENCE_S, LiveMesh, Process, until

REQUEST = [3, 7, "echo", "", 1, 30_000, 0, 0, b"", "", 0]
BODY = msgpack.packb("x")


def header(*fields: Any) -> bytes:
    return bytes(msgpack.packb(fields))


@pytest.fixture
def peer(mesh: LiveMesh, bystander: Mesh) -> Iterator[Dealer]:
    """A connection of its own for each test, since complaints are limited for each; then somebody else makes a call."""
    with dealer(mesh) as made:
        yield made
    assert bystander.call("echo", "undisturbed", timeout=PATIENCE_S) == "undisturbed"


NO_HEADERS = {
    "an empty frame": [b""],
    "two empty frames": [b"", b""],
    "bytes that msgpack never uses": [b"\xc1"],
    "text": [b"GET / HTTP/1.1\r\n\r\n"],
    "an array that ends early": [b"\x9a\x03"],
    "an array without a type": [b"\x90"],
    "a map": [b"\x81\x01\x02"],
    "a type that is no integer": [header("3", 1)],
    "a boolean for a type": [header(True, 1)],
    "more than one value": [header(9, 1) * 2],
    "nesting without end": [b"\x91" * 4000],
    "a header of over 4 KiB": [header(9, 1, b"x" * limits.HEADER_MAX_BYTES)],
    "a PING without its field": [header(9)],
    "a PING with nil": [header(9, None)],
    "a PING with a boolean": [header(9, True)],
    "a PING with a float": [header(9, 1.0)],
    "a PING below the range": [header(9, -1)],
    "a PING above the range": [header(9, 2**53)],
    "a BYE that is no UTF-8": [b"\x92\x0b\xa1\xff"],
    "a BYE that is too long": [header(11, "x" * 201)],
    "a HELLO with a short session": [header(1, 1, 0, b"x" * 15, "", "")],
    "a HELLO with a session as text": [header(1, 1, 0, "x" * 16, "", "")],
    "a REQUEST without an id": [header(3)],
    "a REQUEST whose id is text": [header(3, "7", *REQUEST[2:]), BODY],
    "a REQUEST whose id is 0": [header(3, 0, *REQUEST[2:]), BODY],
    "a PING of too many frames": [header(9, 1), *[b""] * limits.FRAMES_MAX],
}


@pytest.mark.parametrize("greeted", [True, False], ids=["after HELLO", "before HELLO"])
@pytest.mark.parametrize("frames", NO_HEADERS.values(), ids=NO_HEADERS.keys())
def test_what_is_malformed_is_answered_once_with_protocol_error_and_dropped(
    peer: Dealer, frames: list[bytes], greeted: bool
) -> None:
    if greeted:
        peer.hello()
    peer.raw(*frames)
    error = peer.error(0)
    assert (error.code, error.retryable) == ("PROTOCOL_ERROR", False)
    assert error.message
    if not greeted:
        peer.hello()
    assert peer.answer(peer.request(value=[1, 2])) == [1, 2]


BAD_REQUESTS = {
    "missing fields": [header(*REQUEST[:-1]), BODY],
    "an op that is bytes": [header(3, 7, b"echo", *REQUEST[3:]), BODY],
    "an empty op": [header(3, 7, "", *REQUEST[3:]), BODY],
    "an op that is too long": [header(3, 7, "x" * 65, *REQUEST[3:]), BODY],
    "a lane out of range": [header(3, 7, "echo", "", 3, *REQUEST[5:]), BODY],
    "a time left that is negative": [header(3, 7, "echo", "", 1, -1, *REQUEST[6:]), BODY],
    "a time left of over a week": [header(3, 7, "echo", "", 1, 604_800_001, *REQUEST[6:]), BODY],
    "a window out of range": [header(*REQUEST[:7], 1025, b"", ""), BODY],
    "an affinity that is too long": [header(*REQUEST[:8], b"x" * 65, ""), BODY],
    "nil": [header(3, 7, None, *REQUEST[3:]), BODY],
}


@pytest.mark.parametrize("frames", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_malformed_request_gets_its_one_answer_under_its_own_id(peer: Dealer, frames: list[bytes]) -> None:
    peer.hello()
    peer.raw(*frames)
    assert peer.error(7).code == "PROTOCOL_ERROR"
    assert peer.settle() == []


def test_a_request_of_too_many_frames_is_too_large(peer: Dealer) -> None:
    peer.hello()
    peer.raw(header(*REQUEST), *[BODY] * limits.FRAMES_MAX)
    error = peer.error(7)
    assert (error.code, error.message) == ("TOO_LARGE", "message has over 8 frames")
    peer.raw(header(*REQUEST), *[BODY] * 30_000)
    assert peer.error(7).code == "TOO_LARGE"


def test_a_request_of_too_many_bytes_is_too_large_although_each_frame_is_allowed(peer: Dealer) -> None:
    peer.hello()
    peer.raw(header(*REQUEST), BODY, *[bytes(13 << 20)] * 5)
    error = peer.error(7)
    assert (error.code, error.message) == ("TOO_LARGE", f"message has over {limits.MESSAGE_MAX_BYTES} bytes")


def test_a_frame_over_the_limit_ends_the_connection_and_a_new_one_is_served(peer: Dealer) -> None:
    peer.hello()
    peer.raw(header(*REQUEST), bytes(limits.MESSAGE_MAX_BYTES + 1))
    peer.raw(header(9, 5))
    assert peer.take(messages.Reset)
    peer.hello()
    assert peer.answer(peer.request()) == "x"


def test_a_request_without_a_body_is_invalid(peer: Dealer) -> None:
    peer.hello()
    peer.raw(header(*REQUEST))
    assert peer.error(7).code == "INVALID_REQUEST"


def test_a_request_that_had_expired_is_not_run(peer: Dealer) -> None:
    peer.hello()
    assert peer.error(peer.request(ms=0)).code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("code", [0, 16, 31, 50, 127, 2**40])
def test_unknown_types_are_ignored(peer: Dealer, code: int) -> None:
    peer.hello()
    peer.raw(header(code, {"whatever": [1]}), b"\xc1")
    assert peer.settle() == []


def test_each_message_of_a_bundle_is_taken_as_if_it_came_alone(peer: Dealer) -> None:
    peer.hello()
    parts = [header(3, 8, *REQUEST[2:]), BODY, b"\xc1", b"", header(3, 9, *REQUEST[2:]), BODY]
    peer.raw(header(14, [len(part) for part in parts]), b"".join(parts))
    assert peer.answer(8) == peer.answer(9) == "x"
    assert peer.error(0).message.startswith("header is not msgpack")


def test_a_malformed_request_in_a_bundle_gets_its_one_answer(peer: Dealer) -> None:
    peer.hello()
    parts = [header(3, 8, "echo", "", 9, *REQUEST[5:]), BODY, header(3, 9, *REQUEST[2:]), BODY]
    peer.raw(header(14, [len(part) for part in parts]), b"".join(parts))
    assert peer.error(8).message == "Request.lane is 9, allowed are 0 to 2"
    assert peer.answer(9) == "x"


@pytest.mark.parametrize(
    ("sizes", "payload", "reason"),
    [
        ([1, 1], b"x", "Bundle.sizes say 2 bytes, there are 1"),
        ([1, 1, 1], b"xxx", "a BUNDLE has one frame behind its header, and its sizes come in pairs"),
        ([4, 2], header(14, [1]) + b"xx", "Bundle.sizes has length 1, allowed are 2 to 64"),
        ([5, 2], header(14, [1, 1]) + b"xx", "a BUNDLE holds no other"),
    ],
)
def test_a_bundle_that_is_none_is_malformed(peer: Dealer, sizes: list[int], payload: bytes, reason: str) -> None:
    peer.hello()
    peer.raw(header(14, sizes), payload)
    assert peer.error(0).message == reason
    assert peer.answer(peer.request()) == "x"


def test_trailing_header_fields_of_later_versions_are_ignored(peer: Dealer) -> None:
    peer.raw(header(1, 1, 99, peer.session, "later", "", {"new": 1}, None))
    peer.take(messages.Welcome)
    peer.raw(header(*REQUEST, 1.5, ["new"]), BODY)
    assert peer.answer(7) == "x"


@pytest.mark.parametrize(
    "message",
    [
        messages.Ready(1, 0, b"i" * 16, "w", "h", "m", 1, 0, ["echo"], [], [], 1, 0, {}),
        messages.Beat(1, 0, False, [], [], {}, {}),
        messages.Job(1, 1, b"s" * 16, 1, "echo", "", 1, 1, 0, 0, b"", ""),
        messages.Return(1, ""),
        messages.Final(1, 1, 0, 0, 0),
        messages.Chunk(1, 0),
        messages.Error(1, "INTERNAL", "", False, 0),
        messages.Welcome(1, 0, "e", {}, {}),
        messages.Reset("e"),
        messages.Again(1, 0),
        messages.Quiet(True),
        messages.Command(1, "drain"),
        messages.Events(1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_not_for_clients_to_send_is_refused_by_name_or_reset_before_hello(peer: Dealer, message: Any) -> None:
    peer.say(message, BODY)
    assert peer.take(messages.Reset)
    peer.hello()
    peer.say(message, BODY)
    error = peer.error(0)
    assert (error.code, error.message) == ("PROTOCOL_ERROR", f"{type(message).__name__} is not for clients to send")
    assert peer.settle() == []


def test_a_request_before_hello_is_reset_and_answered_when_sent_again(peer: Dealer) -> None:
    request = peer.request(value="early")
    epoch = peer.take(messages.Reset)[0].epoch
    welcome = peer.hello(epoch)
    assert epoch == welcome.epoch
    peer.raw(header(3, request, *REQUEST[2:6], messages.Flag.RESEND, *REQUEST[7:]), *pack_body("early"))
    assert peer.answer(request) == "early"


def test_another_major_version_is_refused_with_both_versions_and_a_goodbye(peer: Dealer) -> None:
    peer.raw(header(1, 2, 0, peer.session, "", ""))
    error = peer.error(0)
    assert (error.code, error.message) == ("PROTOCOL_ERROR", "this broker speaks protocol 1, the client speaks 2")
    assert peer.take(messages.Bye)
    peer.raw(header(*REQUEST), BODY)
    assert peer.take(messages.Reset)


@pytest.mark.parametrize("message", [messages.Cancel(99), messages.Credit(99, 5), messages.Pong(3)])
def test_messages_about_nothing_change_nothing(peer: Dealer, message: Any) -> None:
    peer.hello()
    peer.say(message)
    assert peer.settle() == []


def test_a_request_id_that_is_outstanding_is_not_run_again(peer: Dealer) -> None:
    peer.hello()
    waits = encode_header(messages.Request(5, "nobody", "", 1, 30_000, messages.Flag.WAIT_FOR_READY, 0, b"", ""))
    peer.raw(waits, BODY)
    peer.raw(waits, BODY)
    peer.say(messages.Cancel(5))
    assert peer.error(5).code == "CANCELLED"
    assert peer.settle() == []


def test_a_peer_hears_at_most_one_complaint_a_second(peer: Dealer, bystander: Mesh) -> None:
    peer.hello()
    malformed = bystander.status()["counters"].get("malformed_client", 0)
    began = time.monotonic()
    for _ in range(200):
        peer.raw(b"\xc1")
    heard = peer.settle()
    assert 1 <= len(heard) <= 1 + int(time.monotonic() - began + 1)
    assert 200 == bystander.status()["counters"]["malformed_client"] - malformed


def test_a_status_is_answered_without_a_worker(peer: Dealer) -> None:
    peer.hello()
    peer.say(messages.Status(3))
    _, frames = peer.take(messages.Final, of=3)
    assert {"epoch", "workers", "queues", "limits"} <= unpack_body(frames).keys()


@pytest.mark.slow
def test_malformed_traffic_leaves_nothing_behind(mesh: LiveMesh, bystander: Mesh, broker: Process) -> None:
    process = psutil.Process(broker.pid)

    def abuse() -> None:
        for _ in range(120):
            with dealer(mesh) as peer:
                peer.hello()
                for frames in (*NO_HEADERS.values(), *BAD_REQUESTS.values()):
                    for _ in range(5):
                        peer.raw(*frames)
                    peer.request("nobody")
                peer.settle()

    abuse()  # What is allocated once, and what the allocator keeps.
    descriptors, memory = process.num_fds(), process.memory_info().rss
    abuse()
    until(lambda: process.num_fds() <= descriptors + 2, "descriptors to be given back")
    until(lambda: process.memory_info().rss - memory < 4 << 20, "memory to be given back")
    assert bystander.call("echo", 1, timeout=PATIENCE_S) == 1
