"""Messages off a tape: mostly valid and about few things, so that they meet; sometimes at a bound, or raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from mlx_mesh_wire import limits, messages, pack_body
from mlx_mesh_wire.fields import ITEM_TYPES, LENGTHS, RANGES
from mlx_mesh_wire.messages import TYPE_CODES
from tests.fuzz.tape import Tape

SESSIONS = tuple(bytes([65 + n]) * limits.SESSION_BYTES for n in range(3))
OPS = ("echo", "slow", "x" * limits.OP_MAX_CHARS, "é")
MODELS = ("", "m", "n", "\x1b[31m")
NAMES = ("w", "v", "", "\x00\n")
SMALL = (1, 2, 3, 4, 5, 6, 7, 8, 0, 16, 64, 1000, 5000, 60_000)
TEXTS = ("", "a", "x" * 900, "\ud7ff", "PROTOCOL_ERROR", "OVERLOADED", "e", "epoch-1", "epoch-2")
COUNTERS = ("rss", "outstanding_max", "ping_ms", "silent_ms", "beat_ms", "hits", "\x00")
BODIES: tuple[Sequence[bytes], ...] = (
    tuple(map(bytes, pack_body("body"))),
    (),
    (b"",),
    (b"\xc1",),
    tuple(map(bytes, pack_body({"field": "x", "tokens": [1, 2], "text": "t"}))),
    tuple(map(bytes, pack_body({"tokens": [3]}))),
    (b"\xc4\x00", b"\x01\x00\x00\x00"),
    tuple(map(bytes, pack_body(b"x" * 5000))),
    (b"\xa1x",) * 7,
)
"""Body and buffers behind a header; a broker passes them on unread."""

Maker = Callable[[Tape], Any]


def message(tape: Tape, types: Sequence[type[Any]]) -> Any:
    """Return one of these messages, valid field by field."""
    cls = tape.pick(types)
    return cls._make([make(tape) for make in _MAKERS[cls]])


def body(tape: Tape) -> Sequence[bytes]:
    """Return what comes behind a header."""
    which = tape.byte()
    return BODIES[which % len(BODIES)] if which < 250 else (tape.blob(),)


def _integer(low: int, high: int) -> Maker:
    def make(tape: Tape) -> int:
        which = tape.byte()
        if which >= 250:
            return (low, high, min(high, 2**31), min(high, 2**32), (low + high) // 2, max(low, high - 1))[which - 250]
        return min(max(SMALL[which % len(SMALL)], low), high)

    return make


def _string(options: Sequence[str], low: int, high: int) -> Maker:
    def make(tape: Tape) -> str:
        which = tape.byte()
        if which < 250:
            return options[which % len(options)][:high].ljust(low, "x")
        return tape.blob().decode("utf-8", "replace")[:high].ljust(low, "x")

    return make


def _bytes(low: int, high: int) -> Maker:
    def make(tape: Tape) -> bytes:
        which = tape.byte()
        if low == high == limits.SESSION_BYTES and which < 250:
            return SESSIONS[which % len(SESSIONS)]
        return b"" if which < 128 and not low else tape.blob()[:high].ljust(low, b"x")

    return make


def _held(tape: Tape) -> list[list[Any]]:
    return [[tape.pick(SESSIONS), tape.byte() % 8 + 1, tape.byte() % 4 + 1] for _ in range(tape.byte() % 6)]


def _many(item: Maker, low: int, high: int) -> Maker:
    def make(tape: Tape) -> list[Any]:
        which = tape.byte()
        count = high if which == 255 else which % 5
        return [item(tape) for _ in range(min(max(count, low), high))]

    return make


def _map(item: Maker) -> Maker:
    return lambda tape: {tape.pick(COUNTERS): item(tape) for _ in range(tape.byte() % 5)}


_WORDS = {"op": OPS, "ops": OPS, "pure_ops": OPS, "model": MODELS, "models": MODELS, "warm": MODELS, "name": NAMES}
_WORDS["machine"] = ("here", "there", "")


def _maker(cls: type[Any], name: str, kind: Any) -> Maker:
    kind = getattr(kind, "__origin__", kind)
    low, high = RANGES[cls].get(name) or LENGTHS.get(cls, {}).get(name, (0, 64))
    words = _WORDS.get(name, TEXTS)
    if kind is bool:
        return lambda tape: tape.byte() % 2 == 1
    if kind is int:
        return _integer(low, high)
    if kind is bytes:
        return _bytes(low, high)
    if kind is str:
        return _string(words, low, high)
    item = ITEM_TYPES[cls][name]
    value = _integer(0, limits.INTEGER_MAX) if item is int else _string(words, 0, 40)
    if kind is dict:
        return _map(value)
    return _many(value, low, high) if item is not list else _held


_MAKERS: dict[type[Any], list[Maker]] = {
    cls: [_maker(cls, name, get_type_hints(cls)[name]) for name in cls._fields] for cls in TYPE_CODES
}

CLIENT_SAYS = (
    messages.Request, messages.Request, messages.Request, messages.Cancel, messages.Credit, messages.Hello,
    messages.Ping, messages.Bye, messages.Status, messages.Pong,
)  # fmt: skip
WORKER_SAYS = (
    messages.Final, messages.Chunk, messages.Error, messages.Return, messages.Beat, messages.Ready, messages.Loading,
    messages.Held, messages.Quiet, messages.Ping, messages.Bye, messages.Pong, messages.Final, messages.Chunk,
)  # fmt: skip
BROKER_SAYS_CLIENT = (
    messages.Final, messages.Chunk, messages.Error, messages.Again, messages.Welcome, messages.Reset, messages.Ping,
    messages.Pong, messages.Bye, messages.Chunk,
)  # fmt: skip
BROKER_SAYS_WORKER = (
    messages.Job, messages.Job, messages.Cancel, messages.Credit, messages.Quiet, messages.Trim, messages.Dump,
    messages.Welcome, messages.Reset, messages.Ping, messages.Bye, messages.Error, messages.Pong,
)  # fmt: skip
ANYTHING = tuple(TYPE_CODES)
