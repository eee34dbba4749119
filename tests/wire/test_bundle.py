"""Small messages share a ZeroMQ message, and nothing about them changes by that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlx_mesh_wire import decode_header, limits, messages
from mlx_mesh_wire.body import Frame
from mlx_mesh_wire.bundle import BUNDLED, bundles, opened

LIMIT = limits.BUNDLED_MAX_BYTES
CANCEL = messages.Cancel(7)
MAIL = st.tuples(
    st.sampled_from([CANCEL, messages.Chunk(1, 2), messages.Ping(3), messages.Bye("x"), messages.Return(4, "r")]),
    st.sampled_from([(), (b"body",), (b"",), (b"body", b"buffer"), (b"x" * LIMIT,), (b"x" * (LIMIT + 1),)]),
)


def sent(mail: Sequence[Any]) -> list[list[Frame]]:
    return [frames for _, frames in bundles(mail)]


def received(wire: list[list[Frame]]) -> list[Any]:
    found = []
    for frames in wire:
        header, *rest = [bytes(frame) for frame in frames]
        message = decode_header(header)
        inside = opened(message, rest) if isinstance(message, messages.Bundle) else [[header, *rest]]
        found += [(decode_header(each[0]), tuple(each[1:])) for each in inside]
    return found


@given(st.lists(MAIL, max_size=300))
def test_all_mail_arrives_in_order_as_it_was(mail: list[Any]) -> None:
    assert mail == received(sent(mail))


@given(st.lists(MAIL, max_size=300))
def test_each_wire_message_says_which_mail_it_carries(mail: list[Any]) -> None:
    assert mail == [each for carried, _ in bundles(mail) for each in carried]
    for carried, frames in bundles(mail):
        assert list(carried) == received([frames])


def test_a_lone_message_is_sent_as_itself() -> None:
    for body in ((), (b"body",)):
        ((header, *rest),) = sent([(CANCEL, body)])
        assert (decode_header(bytes(header)), tuple(rest)) == (CANCEL, body)


def test_small_ones_share_up_to_the_limit_and_the_rest_goes_alone() -> None:
    most = limits.BUNDLE_MAX_MESSAGES
    assert [most, most, 1] == [len(carried) for carried, _ in bundles([(CANCEL, (b"x",))] * (2 * most + 1))]
    large = (CANCEL, (b"x" * (LIMIT + 1),))
    assert [1, 2, 1] == [len(carried) for carried, _ in bundles([large, (CANCEL, ()), (CANCEL, ()), large])]


def test_a_view_is_not_copied_into_a_bundle() -> None:
    view = memoryview(b"view")
    assert view is sent([(CANCEL, (b"x",)), (CANCEL, (view,))])[1][1]


def test_greetings_and_bundles_go_alone() -> None:
    alone = {messages.Hello, messages.Welcome, messages.Ready, messages.Loading, messages.Held, messages.Bye}
    assert not BUNDLED & (alone | {messages.Bundle, messages.Reset})
