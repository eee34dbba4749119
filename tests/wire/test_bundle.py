"""Small messages share a ZeroMQ message, and nothing about them changes by that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_mesh_wire import decode_header, limits, messages
from mlx_mesh_wire.body import Frame
from mlx_mesh_wire.bundle import BUNDLED, bundles, deliver
from mlx_mesh_wire.header import encode_header

LIMIT = limits.BUNDLED_MAX_BYTES
CANCEL = messages.Cancel(7)
MAIL = st.tuples(
    st.sampled_from([CANCEL, messages.Chunk(1, 2), messages.Ping(3), messages.Bye("x"), messages.Return(4, "r")]),
    st.sampled_from([(), (b"body",), (b"",), (b"body", b"buffer"), (b"x" * LIMIT,), (b"x" * (LIMIT + 1),)]),
)


def sent(mail: Sequence[Any]) -> list[list[Frame]]:
    return [frames for _, frames in bundles(mail)]


def received(wire: list[list[Frame]]) -> list[Any]:
    """Return the mail that arrives, and the reasons why something does not, in order."""
    found: list[Any] = []
    for frames in wire:
        before = len(found)
        there = deliver(
            found,
            [bytes(frame) for frame in frames],
            lambda found, message, rest: found.append((message, tuple(rest))),
            lambda found, error, header: found.append((error.message, header)),
        )
        assert len(found) - before <= there
    return found


def bundle_of(*mail: list[bytes]) -> list[Frame]:
    parts = [part for header, *body in mail for part in (header, *(body or [b""]))]
    return [encode_header(messages.Bundle([len(part) for part in parts])), b"".join(parts)]


@given(st.lists(MAIL, max_size=300))
def test_all_mail_arrives_in_order_as_it_was(mail: list[Any]) -> None:
    assert mail == received(sent(mail))


@given(st.lists(MAIL, max_size=300))
def test_each_wire_message_says_which_mail_it_carries(mail: list[Any]) -> None:
    assert mail == [each for carried, _ in bundles(mail) for each in carried]
    for carried, frames in bundles(mail):
        assert list(carried) == received([frames])


def test_what_cannot_be_read_in_a_bundle_costs_the_others_nothing() -> None:
    cancel, unknown = encode_header(CANCEL), b"\x91\x7f"
    wire = bundle_of([cancel], [b"\xc1", b"x"], [unknown], [cancel, b"body"])
    first, (reason, header), last = received([wire])
    assert ((CANCEL, ()), b"\xc1", (CANCEL, (b"body",))) == (first, header, last)
    assert "not msgpack" in reason
    assert 4 == deliver(None, [bytes(part) for part in wire], lambda *_: None, lambda *_: None)


def test_a_bundle_in_a_bundle_is_refused_and_not_opened() -> None:
    inner, _ = bundle_of([encode_header(CANCEL)])
    assert [("a BUNDLE holds no other", inner), (CANCEL, ())] == received(
        [bundle_of([bytes(inner), encode_header(CANCEL)], [encode_header(CANCEL)])]
    )


def test_a_bundle_whose_sizes_are_not_those_of_its_frame_is_refused_as_one() -> None:
    header, payload = bundle_of([encode_header(CANCEL)], [encode_header(CANCEL)])
    ((reason, refused),) = received([[header, bytes(payload) + b"x"]])
    assert header == refused
    assert "Bundle.sizes say" in reason


@pytest.mark.parametrize("bad", [-1, limits.INTEGER_MAX + 1, True, 1.0, "1"])
def test_sizes_that_are_no_counts_of_bytes_are_refused(bad: Any) -> None:
    for sizes in ([bad, 3], [3, bad], [bad, bad]):
        check_refused(sizes)


def check_refused(sizes: list[Any]) -> None:
    header = msgpack.packb([messages.TYPE_CODES[messages.Bundle], sizes])
    ((reason, refused),) = received([[header, b""]])
    assert (header, "Bundle.sizes holds") == (refused, reason[:18])


def test_the_largest_and_the_smallest_number_are_counts() -> None:
    sizes = [0, limits.INTEGER_MAX]
    assert messages.Bundle(sizes) == decode_header(encode_header(messages.Bundle(sizes)))


@pytest.mark.parametrize("bad", [b"", b"\xc1", b"\x90"])
def test_a_lone_message_that_cannot_be_read_is_refused_and_counts(bad: bytes) -> None:
    ((_, header),) = received([[bad, b"body"]])
    assert bad == header
    assert [] == received([[b"\x91\x7f"]])


def test_a_lone_message_is_sent_as_itself() -> None:
    for body in ((), (b"body",)):
        ((header, *rest),) = sent([(CANCEL, body)])
        assert (decode_header(bytes(header)), tuple(rest)) == (CANCEL, body)


def test_small_ones_share_up_to_the_limit_and_the_rest_goes_alone() -> None:
    most = limits.BUNDLE_MAX_MESSAGES
    assert [most, most, 1] == [len(carried) for carried, _ in bundles([(CANCEL, (b"x",))] * (2 * most + 1))]
    large = (CANCEL, (b"x" * (LIMIT + 1),))
    assert [1, 2, 1] == [len(carried) for carried, _ in bundles([large, (CANCEL, ()), (CANCEL, ()), large])]
    just_fits = (CANCEL, (b"x" * LIMIT,))
    assert [2] == [len(carried) for carried, _ in bundles([just_fits, just_fits])]


def test_a_view_is_not_copied_into_a_bundle() -> None:
    view = memoryview(b"view")
    assert view is sent([(CANCEL, (b"x",)), (CANCEL, (view,))])[1][1]


def test_greetings_and_bundles_go_alone() -> None:
    alone = {messages.Hello, messages.Welcome, messages.Ready, messages.Loading, messages.Held, messages.Bye}
    assert not BUNDLED & (alone | {messages.Bundle, messages.Reset})
