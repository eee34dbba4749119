"""Answers for clients that do not read, without a socket."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mesh_broker.outbox import MESSAGE_BYTES, Outbox

SMALL = [b"route", b"x"]


def test_what_waits_goes_out_in_order_until_the_connection_is_full_again() -> None:
    outbox, sent = Outbox(10_000), []

    def send(route: bytes, frames: Sequence[bytes]) -> bool:
        sent.append(frames[1])
        return len(sent) != 2

    for each in (b"1", b"2", b"3"):
        assert outbox.keep(b"a", [b"a", each])
    outbox.retry(send)
    outbox.retry(send)
    assert sent == [b"1", b"2", b"2", b"3"]
    assert not outbox


def test_a_route_that_turns_out_to_be_gone_is_forgotten_and_the_others_go_on() -> None:
    outbox, sent = Outbox(10_000), []

    def send(route: bytes, frames: Sequence[bytes]) -> bool:
        if route == b"gone":
            outbox.drop(route)
        else:
            sent.append(route)
        return True

    for route in (b"gone", b"gone", b"there"):
        outbox.keep(route, SMALL)
    outbox.retry(send)
    assert sent == [b"there"]
    assert not outbox


def test_many_tiny_messages_count_for_what_keeping_them_takes() -> None:
    outbox = Outbox(100 * MESSAGE_BYTES)
    kept = 0
    while outbox.keep(b"a", SMALL):
        kept += 1
    assert 90 <= kept < 100
    assert b"a" not in outbox


def test_one_message_of_the_largest_size_is_kept_and_a_second_is_not() -> None:
    outbox = Outbox(1000)
    assert outbox.keep(b"a", [b"a", bytes(1000)])
    assert not outbox.keep(b"a", SMALL)
    assert outbox.keep(b"a", SMALL)
