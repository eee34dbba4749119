"""Headers: message tuple to bytes and back, every field checked.

A header is a msgpack array: the type code, then the fields in order. Trailing fields that this version does
not know are ignored, and so are type codes that it does not know, as the specification demands of a minor version.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import msgpack

from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import DecodeError, ProtocolError
from mlx_mesh_wire.fields import ITEM_TYPES, LENGTHS, RANGES
from mlx_mesh_wire.messages import TYPE_CODES, Message, Request

if TYPE_CHECKING:
    from collections.abc import Callable

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_MOST, _INTEGER_MAX = limits.HEADER_ITEMS_MAX, limits.INTEGER_MAX
_unpack = partial(msgpack.unpackb, max_array_len=_MOST, max_map_len=_MOST)


class _Layout(NamedTuple):
    """What decoding needs to know of one message type, with fields by position.

    ``make`` takes the whole header as arguments and returns the message, or None if something is wrong with it.
    """

    cls: type[Any]
    make: Callable[..., Any]
    arity: int
    types: tuple[type, ...]
    ranges: tuple[tuple[int, int, int], ...]
    lengths: tuple[tuple[int, int, int], ...]
    items: tuple[tuple[int, type], ...]


def _layout(cls: type[Any]) -> _Layout:
    names: tuple[str, ...] = cls._fields
    hints = get_type_hints(cls)
    position = names.index
    types = tuple(getattr(hints[name], "__origin__", hints[name]) for name in names)
    return _Layout(
        cls=cls,
        make=_compile(cls, types),
        arity=len(names),
        types=types,
        ranges=tuple((position(n), low, high) for n, (low, high) in RANGES[cls].items()),
        lengths=tuple((position(n), low, high) for n, (low, high) in LENGTHS.get(cls, {}).items()),
        items=tuple((position(n), kind) for n, kind in ITEM_TYPES.get(cls, {}).items()),
    )


def _compile(cls: type[Any], types: tuple[type, ...]) -> Callable[..., Any]:
    """Return the checks of one type as one expression, as ``dataclasses`` makes its methods.

    It decides the common case in a third of the time that walking the tables takes; they say what was wrong.
    """
    tests = [f"type({name}) is {kind.__name__}" for name, kind in zip(cls._fields, types, strict=True)]
    tests += [f"{low} <= {name} <= {high}" for name, (low, high) in RANGES[cls].items()]
    for name, (low, high) in LENGTHS.get(cls, {}).items():
        tests.append(f"{low} <= len({name}) <= {high}" if low else f"len({name}) <= {high}")
    fields = ", ".join(cls._fields)
    source = f"lambda _code, {fields}, *_: new(cls, ({fields},)) if {' and '.join(tests)} else None"
    make: Callable[..., Any] = eval(source, {"new": tuple.__new__, "cls": cls})  # noqa: S307  our own tables
    return make


_LAYOUTS = {code: _layout(cls) for cls, code in TYPE_CODES.items()}


def encode_header(message: Message) -> bytes:
    """Return the header frame of a message.

    Raises:
        ProtocolError: the header would be over :data:`limits.HEADER_MAX_BYTES`.
    """
    header: bytes = _pack((TYPE_CODES[type(message)], *message))
    if len(header) > limits.HEADER_MAX_BYTES:
        raise ProtocolError(
            f"{type(message).__name__} header has {len(header)} bytes, allowed are {limits.HEADER_MAX_BYTES}"
        )
    return header


def decode_header(header: bytes) -> Message | None:
    """Return the message that a header frame holds, or None for a type that this version does not know.

    Raises:
        DecodeError: too long, not msgpack, not an array, or a field that is missing or out of bounds.
    """
    size = len(header)
    if size > limits.HEADER_MAX_BYTES:
        raise DecodeError(f"header has {size} bytes, allowed are {limits.HEADER_MAX_BYTES}")
    try:
        # Without arguments, in half the time, the items are bounded by the bytes.
        fields = msgpack.unpackb(header) if size <= _MOST else _unpack(header)
    except Exception as error:  # msgpack raises ValueError, UnicodeDecodeError, RecursionError and more
        raise DecodeError(f"header is not msgpack: {type(error).__name__}: {error}") from error
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise DecodeError("header is not an array that starts with an integer type code")
    layout = _LAYOUTS.get(fields[0])
    if layout is None:
        return None
    try:
        message: Message | None = layout.make(*fields)
    except TypeError:  # a field is missing
        message = None
    if message is None:
        raise _fault(layout, fields[1 : layout.arity + 1])
    for index, kind in layout.items:
        _check_items(layout, index, message[index], kind)
    return message


def _fault(layout: _Layout, values: list[Any]) -> DecodeError:
    """Return what is wrong with values that do not fit."""
    if tuple(map(type, values)) != layout.types:
        return _type_error(layout, values)
    faults = [(i, values[i], low, high) for i, low, high in layout.ranges]
    faults += [(i, len(values[i]), low, high) for i, low, high in layout.lengths]
    return next(_bounds_error(layout, *fault) for fault in faults if not fault[2] <= fault[1] <= fault[3])


def _name(layout: _Layout, index: int) -> str:
    return f"{layout.cls.__name__}.{layout.cls._fields[index]}"


def _type_error(layout: _Layout, values: list[Any]) -> DecodeError:
    if len(values) < layout.arity:
        return DecodeError(f"{layout.cls.__name__} has {len(values)} fields, {layout.arity} are needed")
    index = next(i for i, kind in enumerate(layout.types) if type(values[i]) is not kind)
    given, wanted = type(values[index]).__name__, layout.types[index].__name__
    return DecodeError(f"{_name(layout, index)} is a {given}, must be a {wanted}")


def _bounds_error(layout: _Layout, index: int, given: int, low: int, high: int) -> DecodeError:
    what = "is" if layout.types[index] is int else "has length"
    return DecodeError(f"{_name(layout, index)} {what} {given}, allowed are {low} to {high}")


def _check_items(layout: _Layout, index: int, value: Any, kind: type[Any]) -> None:
    if kind is int and type(value) is list and _all_fit(value):  # As the sizes in every bundle.
        return
    items: list[Any] = list(value.values()) if type(value) is dict else value
    name = _name(layout, index)
    if type(value) is dict and not all(type(key) is str for key in value):
        raise DecodeError(f"{name} has a key that is not a string")
    for item in items:
        if type(item) is not kind:
            raise DecodeError(f"{name} holds a {type(item).__name__}, must hold {kind.__name__}")
        if kind is int and not 0 <= item <= limits.INTEGER_MAX:
            raise DecodeError(f"{name} holds {item}, allowed are 0 to {limits.INTEGER_MAX}")
        if kind is list:
            _check_held(name, item)


def _all_fit(numbers: list[Any]) -> bool:
    return not [number for number in numbers if type(number) is not int or not 0 <= number <= _INTEGER_MAX]


def _check_held(name: str, entry: list[Any]) -> None:
    if [type(part) for part in entry] != [bytes, int, int]:
        raise DecodeError(f"{name} holds an entry that is not [session, request_id, attempt]")
    session, request_id, attempt = entry
    numbers_fit = 1 <= min(request_id, attempt) <= max(request_id, attempt) <= limits.INTEGER_MAX
    if len(session) != limits.SESSION_BYTES or not numbers_fit:
        raise DecodeError(f"{name} holds an entry with a field out of bounds")


def salvage_request_id(header: bytes) -> int:
    """Return the id of a malformed REQUEST, so that it can be answered; 0 when there is none to be read."""
    try:
        fields = _unpack(header[: limits.HEADER_MAX_BYTES])
    except Exception:  # noqa: BLE001  whatever is wrong with it, there is no id
        return 0
    if type(fields) is not list or fields[:1] != [TYPE_CODES[Request]] or len(fields) == 1:
        return 0
    request_id = fields[1]
    return request_id if type(request_id) is int and 1 <= request_id <= limits.INTEGER_MAX else 0
