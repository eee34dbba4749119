"""Where the codec draws its lines: what just fits goes through, one more is refused and named."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from mlx_mesh_wire import (
    DecodeError,
    InvalidRequestError,
    MeshError,
    ProtocolError,
    Tensor,
    TooLargeError,
    decode_header,
    encode_header,
    limits,
    messages,
    pack_body,
    unpack_body,
)
from mlx_mesh_wire.bundle import bundles
from mlx_mesh_wire.errors import OverloadedError, error_from_wire
from mlx_mesh_wire.header import salvage_request_id

DEPTH = limits.BODY_DEPTH_MAX


def nested(kind: str, depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"list": [value], "tuple": (value,), "dict": {"k": value}}[kind]
    return value


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_a_body_may_be_as_deep_as_the_limit_and_no_deeper(kind: str) -> None:
    step = {"dict": ".k"}.get(kind, "[0]")
    deep = nested(kind, DEPTH - 1)
    beside = {"dict": {"k": deep, "l": 1}}.get(kind, [deep, 1])
    assert unpack_body(pack_body(beside))
    with pytest.raises(TooLargeError) as caught:
        pack_body({"dict": {"k": nested(kind, DEPTH)}}.get(kind, [nested(kind, DEPTH)]))
    assert {"field": "body" + step * DEPTH, "limit": DEPTH} == caught.value.details
    raw = msgpack.packb(nested(kind, DEPTH + 1))
    with pytest.raises(DecodeError, match="nested"):
        unpack_body([raw])


def test_a_leaf_of_another_type_is_named_however_deep_it_is() -> None:
    value: Any = object()
    for _ in range(DEPTH):
        value = [value]
    with pytest.raises(InvalidRequestError) as caught:
        pack_body(value)
    assert "body" + "[0]" * DEPTH == caught.value.details["field"]


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 0])
def test_integers_of_64_bits_go_through(number: int) -> None:
    assert [number] == unpack_body(pack_body([number]))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_integers_of_more_bits_are_refused(number: int) -> None:
    with pytest.raises(InvalidRequestError, match="64 bits") as caught:
        pack_body({"a": number})
    assert {"field": "body.a"} == caught.value.details


def test_six_tensors_go_through_and_a_seventh_is_refused() -> None:
    tensor = Tensor(b"", "uint8", (0,))
    assert [tensor] * 6 == unpack_body(pack_body([tensor] * 6))
    with pytest.raises(TooLargeError) as caught:
        pack_body([tensor] * 7)
    assert {"field": "body", "limit": 6} == caught.value.details


def test_a_tensor_may_have_as_many_dimensions_as_the_limit() -> None:
    most = limits.DIMENSIONS_MAX
    fits = Tensor(b"x", "uint8", (1,) * most)
    assert fits == unpack_body(pack_body(fits))
    with pytest.raises(InvalidRequestError, match=f"{most + 1} dimensions") as caught:
        pack_body(Tensor(b"x", "uint8", (1,) * (most + 1)))
    assert "body" == caught.value.details["field"]


def test_a_value_that_changes_while_it_is_sent_is_refused() -> None:
    class Changing(tuple[int, ...]):
        __slots__ = ()

        def __len__(self) -> int:
            value[1] = object()  # as another thread may
            return 1

    value: list[Any] = [Tensor(b"x", "uint8", Changing((1,))), 0]
    with pytest.raises(InvalidRequestError, match="object"):
        pack_body(value)


@pytest.mark.parametrize(
    "fields",
    [
        [1, "uint8", [1]],
        [-1, "uint8", [1]],
        [0, "uint7", [1]],
        [0, "uint8", [2]],
        [0, "uint8", [-1]],
        [0, "uint8", [1.0]],
        [0, "uint8", [True]],
        [0, "uint8", [2**53, 0]],
        [0, "uint8", [1], 0],
        [0, "uint8"],
        ["0", "uint8", [1]],
        {0: "uint8"},
    ],
)
def test_a_tensor_that_does_not_fit_its_buffer_is_no_body(fields: Any) -> None:
    with pytest.raises(DecodeError):
        unpack_body([msgpack.packb(msgpack.ExtType(1, msgpack.packb(fields))), b"x"])


def test_a_dimension_may_be_the_largest_integer() -> None:
    raw = msgpack.packb(msgpack.ExtType(1, msgpack.packb([0, "uint8", [2**53 - 1, 0]])))
    assert (2**53 - 1, 0) == unpack_body([raw, b""]).shape


def test_items_that_are_claimed_and_not_there_are_refused_and_many_that_are_there_are_taken() -> None:
    many = limits.BODY_ITEMS_UNCHECKED + 1
    assert many == len(unpack_body([msgpack.packb([0] * many)]))
    assert many == len(unpack_body([msgpack.packb({str(n): 0 for n in range(many)})]))
    with pytest.raises(DecodeError):
        unpack_body([b"\xdd" + many.to_bytes(4, "big") + b"\0" * (many - 1)])


def test_a_header_may_be_as_long_as_the_limit() -> None:
    room = limits.HEADER_MAX_BYTES - len(encode_header(messages.Bye("x" * 300))) + 300
    assert limits.HEADER_MAX_BYTES == len(encode_header(messages.Bye("x" * room)))
    with pytest.raises(ProtocolError):
        encode_header(messages.Bye("x" * (room + 1)))


def test_a_long_header_is_decoded_up_to_the_limit() -> None:
    ping = [messages.TYPE_CODES[messages.Ping], 7]
    room = limits.HEADER_MAX_BYTES - len(msgpack.packb([*ping, b"x" * 300])) + 300
    assert messages.Ping(7) == decode_header(msgpack.packb([*ping, b"x" * room]))
    with pytest.raises(DecodeError, match="4097"):
        decode_header(msgpack.packb([*ping, b"x" * (room + 1)]))


@pytest.mark.parametrize("number", [1, limits.INTEGER_MAX])
def test_every_id_of_a_malformed_request_is_salvaged(number: int) -> None:
    code = messages.TYPE_CODES[messages.Request]
    assert number == salvage_request_id(msgpack.packb([code, number]))
    assert 0 == salvage_request_id(msgpack.packb([code, number + limits.INTEGER_MAX]))
    assert 0 == salvage_request_id(msgpack.packb([code]))


def held(*entry: Any) -> bytes:
    return msgpack.packb([messages.TYPE_CODES[messages.Held], b"i" * 16, [list(entry)]])


@pytest.mark.parametrize("numbers", [(1, 1), (limits.INTEGER_MAX, 1), (1, limits.INTEGER_MAX)])
def test_what_a_worker_holds_is_named_by_session_id_and_attempt(numbers: tuple[int, int]) -> None:
    message = decode_header(held(b"s" * 16, *numbers))
    assert messages.Held(b"i" * 16, [[b"s" * 16, *numbers]]) == message


@pytest.mark.parametrize(
    "entry",
    [
        (b"s" * 15, 1, 1),
        (b"s" * 17, 1, 1),
        (b"s" * 16, 0, 1),
        (b"s" * 16, 1, 0),
        (b"s" * 16, limits.INTEGER_MAX + 1, 1),
        (b"s" * 16, 1, limits.INTEGER_MAX + 1),
        (b"s" * 16, 1),
        (b"s" * 16, 1, 1, 1),
        (b"s" * 16, 1, True),
    ],
)
def test_what_a_worker_holds_has_to_be_within_bounds(entry: tuple[Any, ...]) -> None:
    with pytest.raises(DecodeError, match="entry"):
        decode_header(held(*entry))


def test_a_body_that_is_empty_or_has_a_buffer_is_not_bundled_and_so_not_lost() -> None:
    credit = (messages.Credit(1, 1), ())
    for frames in ((b"",), (b"body", b"buffer")):
        mail = [credit, (messages.Chunk(1, 0), frames), credit]
        wire = list(bundles(mail))
        assert [[credit], [mail[1]], [credit]] == [list(carried) for carried, _ in wire]
        assert list(frames) == wire[1][1][1:]


def test_an_error_is_retryable_as_its_class_says_unless_it_is_told_otherwise() -> None:
    assert (False, 0, {}) == (MeshError("x").retryable, MeshError("x").retry_after_ms, MeshError("x").details)
    assert OverloadedError("x").retryable
    assert not OverloadedError("x", retryable=False).retryable
    assert MeshError("x", retryable=True).retryable
    assert "INTERNAL: x" == str(MeshError("x"))


def test_an_error_of_the_wire_keeps_what_it_says() -> None:
    error = error_from_wire("OVERLOADED", "full", False, 70, {"limit": 3})
    assert (OverloadedError, "full", False, 70) == (
        type(error), error.message, error.retryable, error.retry_after_ms,
    )  # fmt: skip
    assert {"limit": 3} == error.details
