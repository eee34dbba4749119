"""Bytes that claim to hold far more than they do cost no more than their own size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from mlx_mesh_wire import (
    DecodeError,
    InvalidRequestError,
    Tensor,
    TooLargeError,
    decode_header,
    limits,
    pack_body,
    unpack_body,
)
from mlx_mesh_wire.header import salvage_request_id

KIB = 1024
NESTED = 1365
"""Arrays one in the other that fit into a header: three bytes each."""


def peak_bytes(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        with pytest.raises(DecodeError):
            call()

    return run


@pytest.mark.parametrize("claimed", [limits.HEADER_ITEMS_MAX, 4095, 65535])
def test_a_header_of_arrays_that_claim_more_than_there_is_takes_little_memory(claimed: int) -> None:
    header = (b"\xdc" + claimed.to_bytes(2, "big")) * NESTED
    assert peak_bytes(refused(lambda: decode_header(header))) < 2048 * KIB
    assert peak_bytes(lambda: salvage_request_id(header)) < 2048 * KIB


def test_a_header_with_more_items_than_any_message_has_is_refused() -> None:
    cancel = bytes([0xDC, 0, limits.HEADER_ITEMS_MAX, 7, 1]) + b"\xc0" * (limits.HEADER_ITEMS_MAX - 2)
    assert decode_header(cancel) is not None
    with pytest.raises(DecodeError, match="128"):
        decode_header(bytes([0xDC, 0, limits.HEADER_ITEMS_MAX + 1, 7, 1]) + b"\xc0" * (limits.HEADER_ITEMS_MAX - 1))


@pytest.mark.parametrize("claimed", [limits.BODY_ITEMS_UNCHECKED, 65535, 2**20])
def test_a_body_of_arrays_that_claim_more_than_there_is_takes_little_memory(claimed: int) -> None:
    body = (b"\xdd" + claimed.to_bytes(4, "big")) * 1000 + b"\xc0" * KIB * KIB
    assert peak_bytes(refused(lambda: unpack_body([body]))) < 6 * KIB * KIB


@pytest.mark.parametrize("items", [limits.BODY_ITEMS_UNCHECKED, limits.BODY_ITEMS_UNCHECKED + 1, 100_000])
def test_long_arrays_and_maps_that_are_whole_come_through(items: int) -> None:
    value = {"many": [1] * items, "named": {str(index): index for index in range(items)}}
    assert value == unpack_body(pack_body(value))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Ten thousand items are allowed, which takes a hundredth of the time; the vectors have the real bound."""
    monkeypatch.setattr(limits, "BODY_ITEMS_MAX", 10_000)
    return 10_000


def test_a_body_has_at_most_so_many_items_wherever_they_are(few: int) -> None:
    row: list[Any] = [None] * 99
    full: list[Any] = [row] * 100
    assert full == unpack_body(pack_body(full))
    for one_more in (
        [*full[1:], [*row, None]],
        [*full[1:], [*row[1:], {"a": None}]],
        [*full[1:], [*row[1:], [None]]],
        [None] * (few + 1),
        {str(index): None for index in range(few + 1)},
    ):
        with pytest.raises(TooLargeError) as caught:
            pack_body(one_more)
        assert {"field": "body", "limit": few} == caught.value.details
        with pytest.raises(DecodeError, match=str(few)):
            unpack_body([msgpack.packb(one_more)])


@pytest.mark.usefixtures("few")
def test_a_value_that_holds_the_same_over_and_over_is_refused_at_once() -> None:
    value: list[Any] = []
    for _ in range(limits.BODY_DEPTH_MAX - 1):
        value = [value] * 1000
    with pytest.raises(TooLargeError, match="items"):
        pack_body(value)


@pytest.mark.parametrize(
    "thing",
    [b"\x90", b"\x80", b"\x91\xc0", b"\x81\xa0\xc0", b"\xa2ab"],
    ids=["arrays", "maps", "arrays of one", "maps of one", "short strings"],
)
def test_a_body_of_many_small_things_takes_the_memory_of_those_that_are_allowed(few: int, thing: bytes) -> None:
    array = b"\xdc\x01\xf4"
    body = array + (array + thing * 500) * 500
    assert peak_bytes(refused(lambda: unpack_body([body]))) < few * 400


def test_a_long_array_that_lacks_its_last_item_is_refused() -> None:
    (body,) = pack_body(list(range(1000)))
    with pytest.raises(DecodeError):
        unpack_body([body[:-1]])


def test_a_tensor_has_at_most_so_many_dimensions() -> None:
    tensor = Tensor(b"x", "uint8", (1,) * limits.DIMENSIONS_MAX)
    assert tensor == unpack_body(pack_body(tensor))
    with pytest.raises(InvalidRequestError, match="33 dimensions"):
        pack_body(Tensor(b"x", "uint8", (1,) * (limits.DIMENSIONS_MAX + 1)))


def test_the_shape_of_a_tensor_is_not_multiplied_out_however_long_it_is() -> None:
    shape = b"\xdc\x20\x00" + b"\xcf\x00\x1f\xff\xff\xff\xff\xff\xff" * 8192
    payload = b"\x93\x00\xa5uint8" + shape
    body = b"\xc9" + len(payload).to_bytes(4, "big") + b"\x01" + payload
    with pytest.raises(DecodeError, match=f"max_array_len\\({limits.DIMENSIONS_MAX}\\)"):
        unpack_body([body, b""])
