"""What the fields of the messages may hold: tables by which headers are checked, and nothing else.

A field that is in none of them may hold anything of its type.
"""

from __future__ import annotations

from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import (
    FLAGS_MAX,
    Again,
    Beat,
    Bundle,
    Bye,
    Cancel,
    Chunk,
    Command,
    Credit,
    Dump,
    Error,
    Events,
    Final,
    Held,
    Hello,
    Job,
    Loading,
    Message,
    Ping,
    Pong,
    Quiet,
    Ready,
    Request,
    Reset,
    Return,
    Status,
    Trim,
    Welcome,
)

_ID = (1, limits.INTEGER_MAX)
_ID_OR_CONNECTION = (0, limits.INTEGER_MAX)
_COUNT = (0, limits.INTEGER_MAX)
_VERSION = (0, 65535)

Bounds = dict[str, tuple[int, int]]

_WORK_RANGES: Bounds = {
    "request_id": _ID,
    "lane": (0, 2),
    "remaining_ms": (0, limits.REMAINING_MAX_MS),
    "flags": (0, FLAGS_MAX),
    "window": (0, limits.WINDOW_MAX_CHUNKS),
    "seen": _COUNT,
}
_WORK_LENGTHS: Bounds = {
    "op": (1, limits.OP_MAX_CHARS),
    "model": (0, limits.MODEL_MAX_CHARS),
    "affinity": (0, limits.AFFINITY_MAX_BYTES),
    "traceparent": (0, limits.TRACEPARENT_MAX_CHARS),
}
"""Of a REQUEST, and of the JOB that is made of it."""

_WORKER_RANGES: Bounds = {
    "major": _VERSION,
    "minor": _VERSION,
    "pid": (1, 2**31 - 1),
    "pid_start": _COUNT,
    "slots": (1, limits.SLOTS_MAX),
    "load_max_ms": (0, limits.REMAINING_MAX_MS),
    "bulk_slots": (0, limits.SLOTS_MAX),
}
_WORKER_LENGTHS: Bounds = {
    "instance": (limits.SESSION_BYTES, limits.SESSION_BYTES),
    "name": (1, limits.NAME_MAX_CHARS),
    "host": (0, limits.NAME_MAX_CHARS),
    "machine": (0, limits.NAME_MAX_CHARS * 2),
    "ops": (1, limits.LIST_MAX_ITEMS),
    "pure_ops": (0, limits.LIST_MAX_ITEMS),
    "models": (0, limits.LIST_MAX_ITEMS),
    "versions": (0, limits.MAP_MAX_ITEMS),
}

RANGES: dict[type[Message], Bounds] = {
    Hello: {"major": _VERSION, "minor": _VERSION},
    Welcome: {"major": _VERSION, "minor": _VERSION},
    Request: _WORK_RANGES,
    Chunk: {"id": _ID, "seq": _COUNT},
    Final: {
        "id": _ID,
        "attempts": _COUNT,
        "queue_us": _COUNT,
        "service_us": _COUNT,
        "flags": (0, FLAGS_MAX),
        "chunks": _COUNT,
    },
    Error: {"id": _ID_OR_CONNECTION, "retry_after_ms": (0, limits.REMAINING_MAX_MS)},
    Again: {"id": _ID, "chunks": _COUNT},
    Cancel: {"id": _ID},
    Credit: {"id": _ID, "chunks": (1, limits.WINDOW_MAX_CHUNKS)},
    Ping: {"nonce": _COUNT},
    Pong: {"nonce": _COUNT},
    Bye: {},
    Reset: {"dropped": _COUNT},
    Status: {"id": _ID},
    Bundle: {},
    Loading: _WORKER_RANGES,
    Ready: _WORKER_RANGES,
    Held: {},
    Job: {"job_id": _ID, "attempt": (1, limits.INTEGER_MAX), **_WORK_RANGES},
    Return: {"job_id": _ID},
    Beat: {"progress": _COUNT, "held": _COUNT},
    Quiet: {},
    Trim: {"level": (0, 2)},
    Dump: {},
    Command: {"id": _ID},
    Events: {"records": _COUNT},
}
"""Integer fields and the values they may have, both ends included."""

LENGTHS: dict[type[Message], Bounds] = {
    Hello: {
        "session": (limits.SESSION_BYTES, limits.SESSION_BYTES),
        "name": (0, limits.NAME_MAX_CHARS),
        "last_epoch": (0, limits.EPOCH_MAX_CHARS),
    },
    Welcome: {
        "epoch": (1, limits.EPOCH_MAX_CHARS),
        "limits": (0, limits.MAP_MAX_ITEMS),
        "intervals": (0, limits.MAP_MAX_ITEMS),
    },
    Request: _WORK_LENGTHS,
    Error: {"code": (1, limits.CODE_MAX_CHARS), "message": (0, limits.ERROR_MESSAGE_MAX_CHARS)},
    Bye: {"reason": (0, limits.REASON_MAX_CHARS)},
    Reset: {"epoch": (1, limits.EPOCH_MAX_CHARS)},
    Bundle: {"sizes": (2, 2 * limits.BUNDLE_MAX_MESSAGES)},
    Loading: _WORKER_LENGTHS,
    Ready: _WORKER_LENGTHS,
    Held: {
        "instance": (limits.SESSION_BYTES, limits.SESSION_BYTES),
        "jobs": (0, limits.HELD_MAX_ITEMS),
    },
    Job: {"session": (limits.SESSION_BYTES, limits.SESSION_BYTES), **_WORK_LENGTHS},
    Return: {"reason": (0, limits.REASON_MAX_CHARS)},
    Beat: {
        "running": (0, limits.LIST_MAX_ITEMS),
        "warm": (0, limits.LIST_MAX_ITEMS),
        "memory": (0, limits.MAP_MAX_ITEMS),
        "counters": (0, limits.MAP_MAX_ITEMS),
    },
    Dump: {"reason": (0, limits.REASON_MAX_CHARS)},
    Command: {"name": (1, limits.OP_MAX_CHARS)},
}
"""Strings (characters), byte strings (bytes), lists and maps (items): how long they may be."""


ITEM_TYPES: dict[type[Message], dict[str, type]] = {
    Welcome: {"limits": int, "intervals": int},
    Bundle: {"sizes": int},
    Loading: {"ops": str, "pure_ops": str, "models": str, "versions": str},
    Ready: {"ops": str, "pure_ops": str, "models": str, "versions": str},
    Held: {"jobs": list},
    Beat: {"running": int, "warm": str, "memory": int, "counters": int},
}
"""What lists hold, and what the values of maps are; the keys of maps are strings."""
