"""A ZAP request of any frames is accepted only if it is well formed, for a socket that there is, with CURVE and a key
of that socket's role; otherwise it is refused, or cannot be answered.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlx_mesh_broker.zap import ACCEPTED, as_text, judge
from mlx_mesh_wire.keys import ROLES, Entry
from tests.fuzz.tape import Tape

RAW = {role: bytes([65 + number]) * 32 for number, role in enumerate(ROLES)}
ENTRIES = {as_text(raw): Entry(role, f"{role}-1", as_text(raw)) for role, raw in RAW.items()}
DOMAINS = ("client", "worker")
FRAMES = (b"route", b"", b"1.0", b"id", b"client", b"10.0.0.1", b"", b"CURVE", RAW["client"])


def one(data: bytes) -> int:
    tape = Tape(data)
    frames = []
    for index in range(tape.byte() % 13):
        which = tape.byte()
        if which < 160 and index < len(FRAMES):
            frames.append(FRAMES[index])
        elif which < 200:
            frames.append(tape.pick((*RAW.values(), b"worker", b"operator", b"NULL", b"PLAIN")))
        else:
            frames.append(tape.blob())
    verdict = judge(frames, ENTRIES.get, DOMAINS)
    if verdict is None:
        assert len(frames) < 4 or frames[1]
        return 1
    accepted = verdict.reply[4] == ACCEPTED
    assert [frames[0], b"", b"1.0", frames[3]] == verdict.reply[:4]
    assert len(verdict.reply) == 8
    assert all(type(part) is bytes for part in verdict.reply)
    if accepted:
        assert frames[2] == b"1.0"
        assert frames[4].decode() in DOMAINS
        assert frames[7] == b"CURVE"
        assert RAW[frames[4].decode()] == frames[8]
        assert len(frames) == len(FRAMES)
    assert accepted == bool(verdict.reply[6])
    return 1


def seeds() -> Iterator[bytes]:
    yield bytes([9]) + bytes(9)
    yield bytes([9, *[0] * 8, 160, 1])
