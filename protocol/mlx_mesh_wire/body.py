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
    from collections.abc import Callable, Generator, Sequence

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


_pack_plain = msgpack.Packer(autoreset=True).pack

_BUFFER_BYTES = 4096
"""What a packer starts with; with its default of 256 KiB, allocating it costs more than all else."""


class Tensor(NamedTuple):
    """An array of numbers: little-endian, row-major bytes with their element type and shape."""

    data: bytes | memoryview
    dtype: str
    shape: tuple[int, ...]


_LEAVES = frozenset({type(None), bool, float, str, bytes, Tensor})
_CONTAINERS = frozenset({list, tuple, dict})


def pack_body(value: Any) -> list[bytes | memoryview]:
    """Return ``[body, buffer...]`` for a value.

    Raises:
        InvalidRequestError: something that msgpack cannot carry, named by its place in the value.
        TooLargeError: nested too deep, too many items, or more tensors than frames.
    """
    if type(value) is bytes:
        return [_pack_plain(value)]
    items = _items(value, limits.BODY_DEPTH_MAX)
    if items < 0:
        raise _fault(value, "body", limits.BODY_DEPTH_MAX)
    if items > limits.BODY_ITEMS_MAX:
        raise _too_many()
    buffers: list[bytes | memoryview] = []

    def default(item: Any) -> Any:
        # Strict types are needed to tell a Tensor, which is a tuple, from an array.
        if type(item) is tuple:
            return list(item)
        if type(item) is not Tensor:
            raise TypeError(f"cannot carry a {type(item).__name__}")
        if len(item.shape) > limits.DIMENSIONS_MAX:
            raise ValueError(f"a tensor has {len(item.shape)} dimensions, allowed are {limits.DIMENSIONS_MAX}")
        buffers.append(item.data)
        return msgpack.ExtType(EXT_TENSOR, _pack_plain([len(buffers) - 1, item.dtype, item.shape]))

    try:
        body = msgpack.Packer(default=default, strict_types=True, buf_size=_BUFFER_BYTES).pack(value)
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
        DecodeError: not exactly one msgpack value of the allowed kinds, too deep, too many items, or a tensor that does
            not fit its buffer.
    """
    if not frames:
        raise DecodeError("the message has no body")
    buffers = frames[1:]

    def ext_hook(code: int, payload: bytes) -> Tensor:
        if code != EXT_TENSOR:
            raise ValueError(f"extension type {code} is not allowed")
        return _tensor(msgpack.unpackb(payload, max_array_len=limits.DIMENSIONS_MAX, max_map_len=0), buffers)

    try:
        value = _decoded(frames[0], ext_hook, "surrogateescape" if lenient_text else "strict")
        if _items(value, limits.BODY_DEPTH_MAX) < 0:
            raise _fault(value, "body", limits.BODY_DEPTH_MAX)
    except Exception as error:  # msgpack raises ValueError, UnicodeDecodeError, RecursionError and more
        raise DecodeError(f"body is not valid: {error}") from error
    return value


def _decoded(body: Frame, ext_hook: Callable[[int, bytes], Any], unicode_errors: str) -> Any:
    """Return what a body holds; room is made only for items that are there, and for so many at most."""

    def unpack(most: int) -> Any:
        # A body has no more items than bytes, so most bodies need no count.
        count = _counter() if len(body) > limits.BODY_ITEMS_MAX else None
        return msgpack.unpackb(
            body,
            ext_hook=ext_hook,
            unicode_errors=unicode_errors,
            list_hook=count,
            object_hook=count,
            max_array_len=most,
            max_map_len=most,
        )

    most = limits.BODY_ITEMS_UNCHECKED
    try:
        return unpack(most)
    except ValueError:
        if len(body) <= most:
            raise
    # To skip a value costs a tenth of making it, takes no room, and fails where something is missing.
    walker = msgpack.Unpacker(read_size=len(body), max_buffer_size=len(body))
    walker.feed(body)
    walker.skip()
    return unpack(limits.BODY_ITEMS_MAX)


def _counter() -> Callable[[Any], Any]:
    """Return a function that returns the arrays and maps given to it, as long as they do not have too many items."""

    def counting() -> Generator[Any, Any, None]:
        given: Any = None
        left = limits.BODY_ITEMS_MAX
        while left >= 0:
            given = yield given
            left -= len(given)
        raise _too_many()

    counter = counting()
    next(counter)
    return counter.send  # To go on with a generator takes two thirds of the time of a call.


def _too_many() -> TooLargeError:
    most = limits.BODY_ITEMS_MAX
    return TooLargeError(f"body has over {most} items", details={"field": "body", "limit": most})


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


def _items(value: Any, depth: int) -> int:
    """Return how many items a value has at all depths, or a few too many; -1 if it is not what the protocol carries."""
    kind = type(value)
    if kind in _LEAVES or (kind is int and _INT_MIN <= value <= _INT_MAX):
        return 0
    if not depth or kind not in _CONTAINERS:
        return -1
    count = len(value)
    if kind is dict:
        if not all(type(key) is str for key in value):
            return -1
        value = value.values()
    for item in value:
        kind = type(item)
        if kind in _LEAVES or (kind is int and _INT_MIN <= item <= _INT_MAX):
            continue
        inside = _items(item, depth - 1)
        if inside < 0:
            return -1
        count += inside
        if count > limits.BODY_ITEMS_MAX:
            break
    return count


def _fault(value: Any, place: str, depth: int) -> InvalidRequestError | TooLargeError:
    """Return what is wrong with a value that does not fit, and where."""
    kind = type(value)
    where: dict[str, Any] = {"field": place}
    if kind is int:
        return InvalidRequestError(f"{place} is an integer of more than 64 bits", details=where)
    if kind not in (list, tuple, dict):
        allowed = "None, bool, int, float, str, bytes, list, dict and Tensor"
        return InvalidRequestError(f"{place} is a {kind.__name__}; allowed are {allowed}", details=where)
    if not depth:
        most = limits.BODY_DEPTH_MAX
        return TooLargeError(f"{place} is nested deeper than {most}", details={**where, "limit": most})
    if kind is dict:
        odd = [key for key in value if type(key) is not str]
        if odd:
            return InvalidRequestError(f"{place} has a key that is not a string: {odd[0]!r}", details=where)
        named = [(f"{place}.{key}", item) for key, item in value.items()]
    else:
        named = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    return next(_fault(item, name, depth - 1) for name, item in named if _items(item, depth - 1) < 0)
