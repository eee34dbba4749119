"""The codec on anything: round trips for what is valid, DecodeError and nothing else for what is not."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mesh_wire import (
    DecodeError,
    InvalidRequestError,
    ProtocolError,
    Tensor,
    TooLargeError,
    decode_header,
    encode_header,
    messages,
    pack_body,
    unpack_body,
)
from mlx_mesh_wire.fields import ITEM_TYPES, LENGTHS, RANGES
from mlx_mesh_wire.header import salvage_request_id
from mlx_mesh_wire.messages import TYPE_CODES

TEXT = st.text(alphabet=string.printable + "é机🚀")


def field(cls: Any, name: str, annotation: str) -> st.SearchStrategy[Any]:
    if name in RANGES[cls]:
        return st.integers(*RANGES[cls][name])
    low, high = LENGTHS.get(cls, {}).get(name, (0, 64))
    high = min(high, 40) if low < 40 else high
    item = ITEM_TYPES.get(cls, {}).get(name)
    if name == "jobs":
        entry = st.tuples(st.binary(min_size=16, max_size=16), st.integers(1, 99), st.integers(1, 9)).map(list)
        return st.lists(entry, max_size=high)
    values = st.integers(0, 2**53 - 1) if item is int else st.text(max_size=8)
    if annotation.startswith("list"):
        return st.lists(values, min_size=low, max_size=high)
    if annotation.startswith("dict"):
        return st.dictionaries(st.text(max_size=8), values, max_size=8)
    if annotation == "bytes":
        return st.binary(min_size=low, max_size=high)
    return st.booleans() if annotation == "bool" else st.text(min_size=low, max_size=high)


def _name(annotation: Any) -> str:
    """Annotations of NamedTuples are forward references where they are strings."""
    return str(getattr(annotation, "__forward_arg__", annotation))


def any_message() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(*(field(cls, name, _name(kind)) for name, kind in cls.__annotations__.items())).map(cls._make)
        for cls in TYPE_CODES
    )


MESSAGES = any_message()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(MESSAGES)
def test_every_message_survives_the_wire(message: Any) -> None:
    again = decode_header(encode_header(message))
    assert message == again
    assert type(message) is type(again)


@given(VALUES)
def test_every_value_survives_the_wire(value: Any) -> None:
    assert value == unpack_body(pack_body(value))


@given(st.binary(max_size=200))
def test_random_headers_decode_or_raise_decode_error(data: bytes) -> None:
    """Oracle: decoding returns a message or None, or raises DecodeError; what it returns encodes again."""
    try:
        message = decode_header(data)
    except DecodeError:
        return
    assert message is None or decode_header(encode_header(message)) == message


@settings(deadline=None)
@given(MESSAGES, st.data())
def test_damaged_headers_decode_or_raise_decode_error(message: Any, data: st.DataObject) -> None:
    header = bytearray(encode_header(message))
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    test_random_headers_decode_or_raise_decode_error.hypothesis.inner_test(bytes(header))
    assert salvage_request_id(bytes(header)) >= 0


@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=3))
def test_random_bodies_decode_or_raise_decode_error(data: bytes, buffers: list[bytes]) -> None:
    """Oracle: decoding returns a value or raises DecodeError."""
    try:
        value = unpack_body([data, *buffers])
    except DecodeError:
        return
    assert value is None or isinstance(value, bool | int | float | str | bytes | list | dict | Tensor)


def test_a_message_without_a_body_has_none_to_decode() -> None:
    with pytest.raises(DecodeError, match="no body"):
        unpack_body([])


@pytest.mark.parametrize(
    ("value", "error", "place"),
    [
        ({1: 2}, InvalidRequestError, "body"),
        ({"a": [0, object()]}, InvalidRequestError, "body.a[1]"),
        ({"a": 2**64}, InvalidRequestError, "body.a"),
        (["\ud800"], InvalidRequestError, "body"),
        ({1, 2}, InvalidRequestError, "body"),
    ],
)
def test_what_cannot_be_sent_is_named_by_its_place(value: Any, error: type[Exception], place: str) -> None:
    with pytest.raises(error) as caught:
        pack_body(value)
    assert place == caught.value.details["field"]  # type: ignore[attr-defined]


def test_tuples_become_arrays_and_tensors_buffers() -> None:
    frames = pack_body({"pair": (1, 2), "t": [Tensor(b"ab", "uint8", (2,)), Tensor(b"", "float32", (0, 3))]})
    assert frames[1:] == [b"ab", b""]
    value = unpack_body(frames)
    assert value["pair"] == [1, 2]
    assert Tensor(b"ab", "uint8", (2,)) == value["t"][0]


def test_too_deep_a_value_and_too_many_tensors_are_refused() -> None:
    value: Any = 0
    for _ in range(33):
        value = [value]
    with pytest.raises(TooLargeError, match="nested"):
        pack_body(value)
    with pytest.raises(TooLargeError, match="7 tensors"):
        pack_body([Tensor(b"", "uint8", (0,))] * 7)


def test_invalid_utf8_can_be_kept_to_be_located() -> None:
    assert unpack_body([b"\x92\xa2ok\xa1\xff"], lenient_text=True) == ["ok", "\udcff"]


def test_a_header_that_grew_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="4096"):
        encode_header(messages.Bye("x" * 5000))


def test_the_id_of_a_malformed_request_is_salvaged() -> None:
    good = encode_header(messages.Request(77, "op", "", 1, 1, 0, 0, b"", ""))
    assert salvage_request_id(good.replace(b"\x01", b"\x09")) == 77
    assert salvage_request_id(encode_header(messages.Ping(77))) == 0
    for junk in (b"", b"\xc1", b"\x91\x03", b"\x92\x03\xa1x", b"\x92\x03\x00", b"\x80"):
        assert salvage_request_id(junk) == 0
