"""Fuzzing without counting branches, where atheris does not run, or to try what is known in many more ways: the corpus
is changed at random. It is several times faster, and learns nothing.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.budget import Budget
from tests.fuzz.counter import open_counter
from tests.fuzz.targets import load

CHANGES_MAX = 6
KEPT_MAX_BYTES = 4096
ROUND = 256
"""Inputs between two looks at the clock."""

BYTES = [bytes([number]) for number in range(256)]
ODD = (0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xDC, 0xDD, 0xDE, 0xDF, 0xFE, 0xFF)


def main() -> int:
    name, counter, seconds, folder, prefix = sys.argv[1:]
    kept = [path.read_bytes()[:KEPT_MAX_BYTES] for path in sorted(Path(folder).iterdir())] or [b""]
    budget = Budget(load(name))
    counts = open_counter(Path(counter))
    seed = time.time_ns()
    chance = random.Random(seed)
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        for _ in range(ROUND):
            data = changed(chance, kept)
            try:
                counts[1] += budget.run(data)
            except Exception:  # noqa: BLE001  whatever it is, it is a find
                path = Path(prefix + hashlib.sha1(data, usedforsecurity=False).hexdigest())
                path.write_bytes(data)
                traceback.print_exc()
                return 1
            counts[0] += 1
    return 0


def changed(chance: random.Random, kept: list[bytes]) -> bytes:
    """Return one of these inputs with another byte in one place, every eighth time with greater changes.

    All of it is drawn as one number: to draw is what an input costs most.
    """
    drawn = chance.getrandbits(64)
    data = kept[(drawn & 0xFFFFFF) % len(kept)]
    if not data or not drawn >> 24 & 7:
        return reworked(chance, kept, data)
    at = (drawn >> 32 & 0xFFFF) % len(data)
    return data[:at] + BYTES[drawn >> 56] + data[at + 1 :]


def reworked(chance: random.Random, kept: list[bytes], start: bytes) -> bytes:
    """Return an input with some changes, perhaps with the end of another one."""
    data = bytearray(start)
    for _ in range(1 + int(chance.random() * CHANGES_MAX)):
        how = chance.random()
        at = int(chance.random() * (len(data) + 1))
        if how < 0.5 and at < len(data):
            data[at] = int(chance.random() * 256) if how < 0.35 else chance.choice(ODD)
        elif how < 0.65:
            data[at:at] = chance.randbytes(1 + int(chance.random() * 8))
        elif how < 0.8:
            del data[at : at + 1 + int(chance.random() * 8)]
        elif how < 0.9:
            data[at:] = chance.choice(kept)[at:]
        else:
            data[at:at] = data[at : at + 16]
    return bytes(data[:KEPT_MAX_BYTES])


if __name__ == "__main__":
    sys.exit(main())
