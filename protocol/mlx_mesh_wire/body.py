"""Bodies: any plain value to frames and back.

A body is one msgpack value made of nil, booleans, integers, floats, strings, byte strings, arrays and maps with
string keys. Arrays of numbers travel beside it as raw buffers: a :class:`Tensor` in the value becomes
extension type 1 with ``[index, dtype, shape]``, and its bytes become the frame with that index after the body.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import DecodeError, InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Sequence

Frame = bytes | memoryview

EXT_TENSOR = 1

ITEM_BYTES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
}
"""Element types of a tensor and the bytes that one element takes; little-endian, row-major."""

_BUFFERS_MAX = limits.FRAMES_MAX - 2
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_SCALARS = frozenset({type(None), bool, float, bytes})


class Tensor(NamedTuple):
    """An array of numbers: little-endian, row-major bytes with their element type and shape."""

    data: bytes | memoryview
    dtype: str
    shape: tuple[int, ...]


def pack_body(value: Any) -> list[bytes | memoryview]:
    """Return ``[body, buffer...]`` for a value.

    Raises:
        InvalidRequestError: something that msgpack cannot carry, named by its place in the value.
        TooLargeError: nested too deep, or more tensors than frames.
    """
    if type(value) is bytes:
        return [msgpack.packb(value)]
    _check(value, "body", limits.BODY_DEPTH_MAX)
    buffers: list[bytes | memoryview] = []

    def default(item: Any) -> msgpack.ExtType:
        if type(item) is not Tensor:
            raise TypeError(f"cannot carry a {type(item).__name__}")
        buffers.append(item.data)
        payload = msgpack.packb([len(buffers) - 1, item.dtype, list(item.shape)])
        return msgpack.ExtType(EXT_TENSOR, payload)

    try:
        body = msgpack.packb(_plain(value), default=default, strict_types=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequestError(f"body cannot be encoded: {error}", details={"field": "body"}) from error
    if len(buffers) > _BUFFERS_MAX:
        raise TooLargeError(
            f"body has {len(buffers)} tensors, allowed are {_BUFFERS_MAX}",
            details={"field": "body", "limit": _BUFFERS_MAX},
        )
    return [body, *buffers]


def unpack_body(frames: Sequence[bytes | memoryview], *, lenient_text: bool = False) -> Any:
    """Return the value of ``[body, buffer...]``; tensors refer to the buffers without copying them.

    With ``lenient_text`` invalid UTF-8 becomes lone surrogates, so that the caller can say which item has it.

    Raises:
        DecodeError: not exactly one msgpack value of the allowed kinds, too deep, or a tensor that does not
            fit its buffer.
    """
    if not frames:
        raise DecodeError("the message has no body")
    buffers = frames[1:]

    def ext_hook(code: int, payload: bytes) -> Tensor:
        if code != EXT_TENSOR:
            raise ValueError(f"extension type {code} is not allowed")
        return _tensor(msgpack.unpackb(payload), buffers)

    try:
        value = msgpack.unpackb(
            frames[0], ext_hook=ext_hook, unicode_errors="surrogateescape" if lenient_text else "strict"
        )
        _check(value, "body", limits.BODY_DEPTH_MAX)
    except Exception as error:  # msgpack raises ValueError, UnicodeDecodeError, RecursionError and more
        raise DecodeError(f"body is not valid: {error}") from error
    return value


def _tensor(fields: Any, buffers: Sequence[bytes | memoryview]) -> Tensor:
    if type(fields) is not list or [type(f) for f in fields] != [int, str, list]:
        raise ValueError("a tensor is not [index, dtype, shape]")
    index, dtype, shape = fields
    if not 0 <= index < len(buffers):
        raise ValueError(f"tensor buffer {index} is missing, the message has {len(buffers)}")
    if dtype not in ITEM_BYTES:
        raise ValueError(f"tensor dtype {dtype!r} is not one of {', '.join(ITEM_BYTES)}")
    if not all(type(n) is int and 0 <= n <= limits.INTEGER_MAX for n in shape):
        raise ValueError("a tensor shape holds non-negative integers")
    wanted, given = prod(shape) * ITEM_BYTES[dtype], len(buffers[index])
    if wanted != given:
        raise ValueError(f"tensor of shape {shape} and {dtype} needs {wanted} bytes, buffer {index} has {given}")
    return Tensor(buffers[index], dtype, tuple(shape))


def _check(value: Any, place: str, depth: int) -> None:
    """Raise unless the value is made of what the protocol carries, at most ``depth`` deep."""
    kind = type(value)
    if kind is str or kind in _SCALARS or kind is Tensor:
        return
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise InvalidRequestError(f"{place} is an integer of more than 64 bits", details={"field": place})
        return
    if depth == 0:
        raise TooLargeError(
            f"{place} is nested deeper than {limits.BODY_DEPTH_MAX}",
            details={"field": place, "limit": limits.BODY_DEPTH_MAX},
        )
    if kind is list or kind is tuple:
        for index, item in enumerate(value):
            if type(item) is not str:
                _check(item, f"{place}[{index}]", depth - 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidRequestError(f"{place} has a key that is not a string: {key!r}", details={"field": place})
            _check(item, f"{place}.{key}", depth - 1)
    else:
        raise InvalidRequestError(
            f"{place} is a {kind.__name__}; allowed are None, bool, int, float, str, bytes, list, dict and Tensor",
            details={"field": place},
        )


def _plain(value: Any) -> Any:
    """Return the value with tuples as lists: strict types are needed to tell a Tensor from an array."""
    kind = type(value)
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]
    if kind is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value
