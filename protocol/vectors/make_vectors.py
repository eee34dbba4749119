"""Writes the vectors. Its encoder is its own: it shares no code with ``mlx_mesh_wire``."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
S16 = b"0123456789abcdef"


class Raw(bytes):
    """Bytes that stand for themselves."""


def enc(value: Any) -> bytes:
    """Encode in the shortest form, as the msgpack specification has it."""
    if isinstance(value, Raw):
        return bytes(value)
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return _int(value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        return _sized(value.encode(), (0xA0, 31), (0xD9, 0xDA, 0xDB))
    if isinstance(value, bytes):
        return _sized(value, None, (0xC4, 0xC5, 0xC6))
    if isinstance(value, dict):
        head = bytes([0x80 | len(value)]) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
        return head + b"".join(enc(k) + enc(v) for k, v in value.items())
    head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(">H", len(value))
    return head + b"".join(map(enc, value))


def _int(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    if -32 <= value < 0:
        return struct.pack(">b", value)
    for code, form, low, high in (
        (0xCC, ">B", 0, 2**8), (0xCD, ">H", 0, 2**16), (0xCE, ">I", 0, 2**32), (0xCF, ">Q", 0, 2**64),
        (0xD0, ">b", -(2**7), 0), (0xD1, ">h", -(2**15), 0), (0xD2, ">i", -(2**31), 0), (0xD3, ">q", -(2**63), 0),
    ):  # fmt: skip
        if low <= value < high:
            return bytes([code]) + struct.pack(form, value)
    raise ValueError(value)


def _sized(data: bytes, fix: tuple[int, int] | None, codes: tuple[int, int, int]) -> bytes:
    if fix and len(data) <= fix[1]:
        return bytes([fix[0] | len(data)]) + data
    for code, form in zip(codes, (">B", ">H", ">I"), strict=True):
        if len(data) < 2 ** (8 * struct.calcsize(form)):
            return bytes([code]) + struct.pack(form, len(data)) + data
    raise ValueError(len(data))


MAX = 2**53 - 1
WEEK_MS = 7 * 24 * 3600 * 1000
WORKER = {
    "major": 1, "minor": 0, "instance": S16, "name": "w", "host": "h", "machine": "m", "pid": 42, "pid_start": 7,
    "ops": ["embed"], "pure_ops": [], "models": [], "slots": 8, "load_max_ms": 0, "versions": {"mlx": "0.30"},
    "bulk_slots": 0,
}  # fmt: skip
REQUEST = {
    "request_id": 1, "op": "embed", "model": "", "lane": 1, "remaining_ms": 1000, "flags": 0, "window": 0,
    "affinity": b"", "traceparent": "",
}  # fmt: skip
REQUEST["seen"] = 0
JOB = {"job_id": 9, "attempt": 1, "session": S16, **REQUEST}
BEAT = {
    "progress": 1, "held": 0, "draining": False, "running": [1], "warm": ["m"], "memory": {"rss": 1},
    "counters": {"prefix_hits": 2},
}  # fmt: skip
TYPES: dict[str, tuple[int, dict[str, Any]]] = {
    "Hello": (1, {"major": 1, "minor": 0, "session": S16, "name": "n", "last_epoch": ""}),
    "Welcome": (2, {"major": 1, "minor": 0, "epoch": "e", "limits": {"frames_max": 8}, "intervals": {}}),
    "Request": (3, REQUEST),
    "Chunk": (4, {"id": 1, "seq": 0}),
    "Final": (5, {"id": 1, "attempts": 1, "queue_us": 20, "service_us": 300, "flags": 0, "chunks": 0}),
    "Error": (6, {"id": 0, "code": "INTERNAL", "message": "m", "retryable": False, "retry_after_ms": 0}),
    "Cancel": (7, {"id": 1}),
    "Credit": (8, {"id": 1, "chunks": 1}),
    "Ping": (9, {"nonce": 0}),
    "Pong": (10, {"nonce": MAX}),
    "Bye": (11, {"reason": ""}),
    "Reset": (12, {"epoch": "e", "dropped": 0}),
    "Status": (13, {"id": 1}),
    "Bundle": (14, {"sizes": [10, 3, 12, 0]}),
    "Again": (15, {"id": 1, "chunks": 3}),
    "Loading": (32, WORKER),
    "Ready": (33, WORKER),
    "Held": (34, {"instance": S16, "jobs": [[S16, 1, 1]]}),
    "Job": (35, JOB),
    "Return": (36, {"job_id": 1, "reason": "draining"}),
    "Beat": (37, BEAT),
    "Quiet": (38, {"on": True}),
    "Trim": (39, {"level": 1}),
    "Dump": (40, {"reason": "no progress for 30 s"}),
    "Command": (48, {"id": 1, "name": "status"}),
    "Events": (49, {"records": 3}),
}
LIMITS: list[tuple[str, str, Any, Any]] = [
    # type, field, the last value allowed, the first that is not
    ("Hello", "session", S16, S16 + b"x"),
    ("Hello", "session", S16, S16[:-1]),
    ("Hello", "name", "n" * 64, "n" * 65),
    ("Hello", "last_epoch", "e" * 32, "e" * 33),
    ("Hello", "major", 65535, 65536),
    ("Welcome", "epoch", "e" * 32, ""),
    ("Bundle", "sizes", [1] * 64, [1] * 65),
    ("Bundle", "sizes", [1, 0], [1]),
    ("Bundle", "sizes", [MAX, 0], [MAX + 1, 0]),
    ("Welcome", "limits", {"a": MAX}, {"a": MAX + 1}),
    ("Request", "request_id", MAX, MAX + 1),
    ("Request", "request_id", 1, 0),
    ("Request", "op", "o" * 64, "o" * 65),
    ("Request", "op", "o", ""),
    ("Request", "model", "m" * 200, "m" * 201),
    ("Request", "lane", 2, 3),
    ("Request", "lane", 0, -1),
    ("Request", "remaining_ms", WEEK_MS, WEEK_MS + 1),
    ("Request", "flags", 65535, 65536),
    ("Request", "window", 1024, 1025),
    ("Request", "affinity", b"a" * 64, b"a" * 65),
    ("Request", "traceparent", "t" * 64, "t" * 65),
    ("Request", "seen", MAX, -1),
    ("Final", "chunks", MAX, MAX + 1),
    ("Reset", "dropped", MAX, -1),
    ("Chunk", "id", 1, 0),
    ("Chunk", "seq", MAX, MAX + 1),
    ("Final", "queue_us", MAX, -1),
    ("Error", "message", "é" * 900, "e" * 901),
    ("Error", "code", "C" * 32, "C" * 33),
    ("Error", "retry_after_ms", WEEK_MS, WEEK_MS + 1),
    ("Credit", "chunks", 1024, 1025),
    ("Credit", "chunks", 1, 0),
    ("Bye", "reason", "r" * 200, "r" * 201),
    ("Ready", "slots", 4096, 4097),
    ("Ready", "slots", 1, 0),
    ("Ready", "pid", 2**31 - 1, 2**31),
    ("Ready", "ops", ["o"] * 64, ["o"] * 65),
    ("Ready", "ops", ["o"], []),
    ("Ready", "name", "n" * 64, ""),
    ("Held", "jobs", [[S16, 1, 1]] * 100, [[S16, 1, 1]] * 101),
    ("Held", "jobs", [[S16, MAX, MAX]], [[S16, 0, 1]]),
    ("Held", "jobs", [], [[S16, 1]]),
    ("Ready", "bulk_slots", 4096, 4097),
    ("Ready", "bulk_slots", 0, -1),
    ("Again", "id", MAX, 0),
    ("Again", "chunks", MAX, -1),
    ("Beat", "counters", {f"c{n}": n for n in range(64)}, {f"c{n}": n for n in range(65)}),
    ("Beat", "counters", {"c": MAX}, {"c": MAX + 1}),
    ("Job", "attempt", 1, 0),
    ("Job", "seen", MAX, -1),
    ("Trim", "level", 2, 3),
    ("Trim", "level", 0, -1),
    ("Dump", "reason", "r" * 200, "r" * 201),
    ("Command", "name", "n" * 64, ""),
]
KINDS: list[tuple[str, str, Any, str]] = [
    ("Request", "lane", True, "a boolean is not an integer"),
    ("Request", "remaining_ms", 1000.0, "JavaScript encodes 1000.5 as a float and 1000 as an integer"),
    ("Request", "op", b"embed", "bytes are not a string"),
    ("Request", "affinity", "key", "a string is not bytes"),
    ("Request", "model", None, "nil does not occur"),
    ("Error", "retryable", 1, "an integer is not a boolean"),
    ("Quiet", "on", 0, "an integer is not a boolean"),
    ("Ready", "ops", "embed", "a string is not an array"),
    ("Ready", "ops", [b"embed"], "the items are strings"),
    ("Ready", "versions", [["mlx", "1"]], "an array is not a map"),
    ("Ready", "versions", {"mlx": 1}, "the values are strings"),
    ("Welcome", "limits", {"a": 1.0}, "the values are integers"),
    ("Welcome", "limits", {b"a": 1}, "the keys are strings"),
    ("Beat", "running", [True], "the items are integers"),
    ("Beat", "memory", {"rss": -1}, "the values are not negative"),
    ("Beat", "counters", {"c": "1"}, "the values are integers"),
    ("Held", "jobs", [[S16, 1, "1"]], "an entry is bytes and two integers"),
]


def js(value: Any) -> Any:
    """Write a value as the JSON form that README.md describes."""
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, float):
        return {"$float": repr(value)}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX:
        return {"$int": str(value)}
    if isinstance(value, list):
        return [js(item) for item in value]
    if isinstance(value, dict):
        return {str(key): js(item) for key, item in value.items()}
    return value


def header(kind: str, fields: dict[str, Any], *extra: Any) -> bytes:
    return enc([TYPES[kind][0], *fields.values(), *extra])


def headers() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []

    def good(name: str, data: bytes, kind: str | None, fields: dict[str, Any], **more: Any) -> None:
        decoded = None if kind is None else {"type": kind, "fields": js(fields)}
        cases.append({"name": name, "hex": data.hex(), "decoded": decoded, **more})

    def bad(name: str, data: bytes, about: str, **more: Any) -> None:
        cases.append({"name": name, "hex": data.hex(), "error": "PROTOCOL_ERROR", "about": about, **more})

    for kind, (_, fields) in TYPES.items():
        good(f"{kind}: valid", header(kind, fields), kind, fields, canonical=True)
        good(f"{kind}: a trailing field is ignored", header(kind, fields, "new", None, 1.5), kind, fields)
        bad(f"{kind}: the last field is missing", enc([TYPES[kind][0], *list(fields.values())[:-1]]), kind)
    for kind, field, last, first in LIMITS:
        fields = TYPES[kind][1]
        name = f"{kind}.{field}: {_short(last)} is allowed"
        if name not in {case["name"] for case in cases}:
            good(name, header(kind, {**fields, field: last}), kind, {**fields, field: last})
        bad(f"{kind}.{field}: {_short(first)} is not", header(kind, {**fields, field: first}), f"{kind}.{field}")
    for kind, field, value, why in KINDS:
        bad(f"{kind}.{field}: {why}", header(kind, {**TYPES[kind][1], field: value}), f"{kind}.{field}", trap=why)
    request = header("Request", REQUEST)
    wide = enc([3, Raw(b"\xcf" + struct.pack(">Q", 1)), *list(REQUEST.values())[1:]])
    good("an integer in a longer form than needed", wide, "Request", REQUEST, trap="encoders may choose any width")
    good("an unknown type is ignored", enc([31, "whatever"]), None, {})
    good("an unknown type without fields is ignored", enc([127]), None, {})
    bad("empty", b"", "msgpack")
    bad("truncated", request[:-1], "msgpack")
    bad("trailing bytes", request + b"\x00", "msgpack")
    bad("the byte that msgpack never uses", b"\xc1", "msgpack")
    bad("a map", enc({"type": 3}), "array")
    bad("an empty array", enc([]), "array")
    bad("a type that is a string", enc(["Request"]), "array")
    bad("a type that is a boolean", enc([True, 1]), "array")
    bad("a type that is a float", enc([3.0, *REQUEST.values()]), "array", trap="3.0 is not 3")
    utf8 = enc([3, 1, Raw(b"\xa2\xff\xfe"), *list(REQUEST.values())[2:]])
    bad("a string that is not UTF-8", utf8, "msgpack")
    surrogate = enc([3, 1, Raw(b"\xa3\xed\xa0\x80"), *list(REQUEST.values())[2:]])
    bad("a string with a lone surrogate", surrogate, "msgpack", trap="CESU-8 is not UTF-8")
    bad("an extension type", enc([3, Raw(b"\xd4\x05\x00")]), "Request")
    bad("a timestamp", enc([9, Raw(b"\xd6\xff\x00\x00\x00\x00")]), "Ping.nonce")
    bad("nested too deep to decode", b"\x91" * 2000 + b"\x00", "")
    bad("an array that claims more items than there are bytes", b"\xdd\xff\xff\xff\xff\x03", "msgpack")
    good("128 items in an array", enc([7, 1, *[None] * 126]), "Cancel", {"id": 1})
    bad("129 items in an array", enc([7, 1, *[None] * 127]), "128")
    claims = b"\xdc\x0f\xff" * 1365
    bad("arrays that claim thousands of items, one in the other", claims, "msgpack", trap="room for them takes 32 MB")
    bad("4097 bytes", enc([9, 1, "x" * (4097 - 6)]).ljust(4097, b"\x00"), "4097")
    return cases


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 30 else f"{type(value).__name__} of {len(value)}"


def bodies() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []

    def good(name: str, value: Any, data: bytes | None = None, **more: Any) -> None:
        frames = [(enc(value) if data is None else data).hex()]
        cases.append({"name": name, "hex": frames, "decoded": js(value), "canonical": data is None, **more})

    def bad(name: str, data: bytes, about: str, *buffers: bytes, **more: Any) -> None:
        frames = [data.hex(), *[b.hex() for b in buffers]]
        cases.append({"name": name, "hex": frames, "error": "PROTOCOL_ERROR", "about": about, **more})

    integers = (0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, -(2**31), 2**32)
    others = (
        None,
        True,
        False,
        "",
        "é",
        "x" * 32,
        b"",
        b"\x00\xff",
        [],
        {},
        [1, [2, [3]]],
        {"a": {"b": [None]}},
        1.5,
        -0.25,
    )
    for value in (*integers, *others):
        good(f"{type(value).__name__} {_short(value)}", value)
    good("1.0 is a float", 1.0, trap="JavaScript decodes 1 and encodes it as an integer")
    good("a float of 32 bits", 0.5, b"\xca\x3f\x00\x00\x00", trap="half the width, the same value")
    good("-0.0 is a float", -0.0, trap="some encoders write the integer 0")
    for text in ("inf", "-inf"):
        good(text, float(text))
    for value in (MAX, -MAX):
        good(f"the safe integer {value}", value)
    for value in (2**53, 2**63 - 1, -(2**63), 2**64 - 1):
        good(f"{value} is beyond the safe integers", value, trap="JavaScript numbers lose the last bits")
    good("a replacement character", "a\ufffd", trap="decoders put it where a string is not UTF-8, but here it is one")
    good("a key that JavaScript gives a meaning", {"__proto__": {"a": 1}}, trap="to set it changes the prototype")
    good("32 levels", nest(32))
    bad("33 levels", b"\x91" * 33 + b"\x00", "nested")
    bad("600 levels", b"\x91" * 600 + b"\x00", "", trap="some decoders recurse until the stack ends")
    crowds(bad)
    bad("an integer as a key", b"\x81\x01\x02", "")
    bad("bytes as a key", enc({b"a": 1}), "key")
    bad("nil as a key", b"\x81\xc0\x01", "")
    bad("a timestamp", b"\xd6\xff\x00\x00\x00\x00", "", trap="libraries decode it to a date")
    bad("an unknown extension type", b"\xd4\x05\x00", "extension type 5")
    bad("two values", b"\x01\x02", "")
    bad("nothing", b"", "")
    bad("the byte that msgpack never uses", b"\xc1", "")
    bad("a truncated string", b"\xa5abc", "")
    bad("a string that is not UTF-8", b"\xa2\xff\xfe", "")
    bad("a string with a lone surrogate", b"\xa3\xed\xa0\x80", "", trap="CESU-8 is not UTF-8")
    tensors(cases, bad)
    return cases


def crowds(bad: Any) -> None:
    """More items than a body may have, 2**21."""
    trap = "a message of 64 MiB becomes some gigabytes"
    for name, head, each, times in (
        ("too many items in one array", b"\xdd\x00\x20\x00\x01", b"\xc0", 2**21 + 1),
        ("too many items in many arrays", b"\xdc\x08\x00", b"\xdc\x04\x00" + b"\x90" * 1024, 2**11),
        ("too many items in many maps", b"\xdd\x00\x10\x00\x01", b"\x81\xa0\xc0", 2**20 + 1),
    ):
        bad(name, head, str(2**21), tail=[each.hex(), times], trap=trap)


def nest(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def tensor(*fields: Any) -> bytes:
    payload = enc(list(fields))
    return b"\xc7" + bytes([len(payload)]) + b"\x01" + payload


def tensors(cases: list[dict[str, Any]], bad: Any) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)

    def good(name: str, body: bytes, decoded: Any, *buffers: bytes) -> None:
        frames = [body.hex(), *[b.hex() for b in buffers]]
        cases.append({"name": name, "hex": frames, "decoded": decoded, "canonical": False})

    def shown(dtype: str, shape: list[int], raw: bytes) -> Any:
        return {"$tensor": {"dtype": dtype, "shape": shape, "data": raw.hex()}}

    good("a tensor", tensor(0, "float32", [2, 2]), shown("float32", [2, 2], data), data)
    good("a tensor of no elements", tensor(0, "float32", [0, 384]), shown("float32", [0, 384], b""), b"")
    good("a tensor of one number", tensor(0, "int8", []), shown("int8", [], b"\x07"), b"\x07")
    pair = b"\x82\xa1a" + tensor(1, "uint8", [2]) + b"\xa1b" + tensor(0, "int64", [1])
    both = {"a": shown("uint8", [2], b"\x01\x02"), "b": shown("int64", [1], bytes(8))}
    good("two tensors in any order", pair, both, bytes(8), b"\x01\x02")
    bad("a tensor whose buffer is too short", tensor(0, "float32", [2, 2]), "needs 16 bytes", data[:-1])
    bad("a tensor whose buffer is too long", tensor(0, "float32", [2, 2]), "needs 16 bytes", data + b"\x00")
    bad("a tensor whose buffer is missing", tensor(1, "float32", [2, 2]), "buffer 1 is missing", data)
    bad("a tensor with a negative buffer", tensor(-1, "float32", [2, 2]), "buffer -1 is missing", data)
    bad("a tensor of an unknown dtype", tensor(0, "complex64", [1]), "complex64", bytes(8))
    bad("a tensor of a negative size", tensor(0, "uint8", [-1]), "non-negative", b"")
    bad("a tensor of an enormous size", tensor(0, "float64", [2**40, 2**40]), "needs", b"")
    bad("a tensor with a float in its shape", tensor(0, "uint8", [1.0]), "non-negative", b"\x00")
    good("a tensor of 32 dimensions", tensor(0, "uint8", [1] * 32), shown("uint8", [1] * 32, b"\x07"), b"\x07")
    bad("a tensor of 33 dimensions", tensor(0, "uint8", [1] * 33), "32", b"\x07")
    bad("a tensor without a shape", tensor(0, "uint8"), "not [index, dtype, shape]", b"\x00")


def bundles() -> list[dict[str, Any]]:
    request, body = header("Request", REQUEST), enc({"texts": ["a"]})
    cancel, final = header("Cancel", {"id": 7}), header("Final", TYPES["Final"][1])
    cases: list[dict[str, Any]] = []

    def good(name: str, *messages: tuple[bytes, bytes], **more: Any) -> None:
        sizes = [len(part) for message in messages for part in message]
        frames = [header("Bundle", {"sizes": sizes}), b"".join(map(b"".join, messages))]
        shown = [[head.hex(), body.hex()] if body else [head.hex()] for head, body in messages]
        cases.append({"name": name, "hex": [frame.hex() for frame in frames], "messages": shown, **more})

    def bad(name: str, about: str, sizes: list[int], *payload: bytes) -> None:
        frames = [header("Bundle", {"sizes": sizes}), *payload]
        cases.append({"name": name, "hex": [f.hex() for f in frames], "error": "PROTOCOL_ERROR", "about": about})

    good("one message", (request, body))
    good("a message without a body among others", (request, body), (cancel, b""), (final, body))
    good("only messages without a body", (cancel, b""), (cancel, b""))
    good("32 messages", *[(request, body)] * 32)
    good("a malformed message leaves the others valid", (request, body), (b"\xc1", body), (final, body))
    good("a body that is no msgpack is passed on", (request, b"\xc1\xc1"))
    good("an empty header is a malformed message of its own", (b"", body), (request, body))
    bad("sizes that do not come in pairs", "pairs", [len(cancel), 0, len(cancel)], cancel + cancel)
    bad("sizes beyond the frame", "say", [len(cancel), 1], cancel)
    bad("sizes short of the frame", "say", [len(cancel), 0], cancel + b"x")
    bad("an enormous size", "say", [MAX, MAX], cancel)
    bad("no frame behind the header", "one frame", [len(cancel), 0])
    bad("two frames behind the header", "one frame", [len(cancel), 0], cancel, b"")
    return cases


def wrapped() -> list[dict[str, Any]]:
    request, body = header("Request", REQUEST), enc({"texts": ["a"]})
    cases: list[dict[str, Any]] = []

    def whole(*frames: bytes, sizes: list[int] | None = None, count: int | None = None, rest: bytes = b"") -> str:
        given = [len(frame) for frame in frames] if sizes is None else sizes
        head = struct.pack(f">B{len(given)}I", len(frames) if count is None else count, *given)
        return (head + b"".join(frames) + rest).hex()

    def good(name: str, *frames: bytes) -> None:
        cases.append({"name": name, "hex": whole(*frames), "frames": [frame.hex() for frame in frames]})

    def bad(name: str, about: str, text: str) -> None:
        cases.append({"name": name, "hex": text, "error": "PROTOCOL_ERROR", "about": about})

    good("a header alone", request)
    good("a header and a body", request, body)
    good("a header, a body and six buffers", request, body, *[bytes([number]) * number for number in range(1, 7)])
    good("empty frames", request, b"", b"")
    good("a size of over 2^16", request, bytes(65_537))
    good("a header that is malformed is a matter of the header", b"\xc1")
    bad("nothing", "1 to 8 frames, this one 0", "")
    bad("no frame", "1 to 8 frames, this one 0", whole())
    bad("nine frames", "1 to 8 frames, this one 9", whole(*[request] * 9))
    bad("a header as it is without wrapping", "1 to 8 frames", request.hex())
    bad("cut within the sizes", "begins with 9 bytes, there are 5", whole(request, body)[:10])
    bad("cut within the body", "by its sizes", whole(request, body)[:-2])
    bad("more behind the last frame", "by its sizes", whole(request, body, rest=b"x"))
    bad("a size of 4 GiB", "by its sizes", whole(request, sizes=[2**32 - 1]))
    bad("sizes that overflow together", "by its sizes", whole(request, body, sizes=[2**32 - 1, 2**32 - 1]))
    return cases


def affinities() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []

    def case(name: str, asked: dict[str, Any], beginning: str) -> None:
        key = hashlib.sha256(beginning.encode()).hexdigest()
        cases.append({"name": name, "op": "chat" if "messages" in asked else "generate", "asked": asked, "key": key})

    def chat(name: str, contents: list[Any], beginning: str) -> None:
        roles = ("system", "user", "assistant", "user")
        case(name, {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}, beginning)

    case("a short prompt", {"prompt": "Once upon"}, "Once upon")
    case("512 characters of a prompt", {"prompt": "ab" * 256}, "ab" * 256)
    case("those behind do not count", {"prompt": "ab" * 256 + "c"}, "ab" * 256)
    case("characters beyond the basic plane count once", {"prompt": "😀" * 513}, "😀" * 512)
    case("characters are not bytes", {"prompt": "é" * 600}, "é" * 512)
    case("token ids", {"prompt": [1, 20, 300]}, "1,20,300")
    case("one token id", {"prompt": [7]}, "7")
    case("512 characters of token ids", {"prompt": [123456] * 1000}, ("123456," * 74)[:512])
    case("token ids of one character", {"prompt": [1] * 1000}, "1," * 256)
    chat("a message", ["Hello"], "Hello")
    chat("a system prompt and a question", ["Be brief.", "Why?"], "Be brief.\nWhy?")
    chat("later turns do not count", ["Be brief.", "Why?", "So.", "And?"], "Be brief.\nWhy?")
    chat("512 characters of two messages", ["s" * 500, "q" * 20, "later"], "s" * 500 + "\n" + "q" * 11)
    chat("quotes and newlines stand for themselves", ['"it\'s"\n', "é"], '"it\'s"\n\né')
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    chat("text parts are one text", [parts, "Why?"], "one two\nWhy?")
    chat("other parts and no content are empty", [None, [{"type": "image", "url": "u"}]], "\n")
    return cases


def main() -> None:
    every = {
        "headers": headers(),
        "bodies": bodies(),
        "bundles": bundles(),
        "wrapped": wrapped(),
        "affinity": affinities(),
    }
    for name, cases in every.items():
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        (HERE / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
