"""What is asked, and what alone is a right answer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

TIMEOUT_S = 30.0
HASTY_S = (0.02, 0.3)
LARGE_BYTES = 40_000
"""Over what goes in a bundle, and over one read of the proxy."""

KINDS = {"echo": 3, "large": 1, "digest": 4, "once": 2, "tell": 3, "items": 1, "hasty": 1, "leave": 1}
"""Kinds of questions, and how many of each come in a time."""


class Question(NamedTuple):
    """One call.

    Attributes:
        kind: the name under which it is counted.
        op: what is called.
        value: with this.
        result: what has to come of it.
        chunks: for a stream, its chunks.
        timeout_s: its deadline.
        keep: how many chunks are read before the stream is left; -1 for all.
    """

    kind: str
    op: str
    value: Any
    result: Any
    chunks: Sequence[Any] | None = None
    timeout_s: float = TIMEOUT_S
    keep: int = -1


def questions(who: str, chance: random.Random, kinds: Sequence[str] = ()) -> Iterator[Question]:
    """Draw questions without end; no two of all clients have the same nonce."""
    chosen = {kind: weight for kind, weight in KINDS.items() if not kinds or kind in kinds} | (
        {"poison": 1} if "poison" in kinds else {}
    )
    number = 0
    while True:
        number += 1
        kind = chance.choices([*chosen], [*chosen.values()])[0]
        yield question(kind, f"{who}/{number}", chance)


def question(kind: str, nonce: str, chance: random.Random) -> Question:
    """Draw one question of a kind."""
    if kind in ("tell", "leave"):
        count = chance.randrange(1, 60)
        chunks = [[nonce, at] for at in range(count)]
        keep = chance.randrange(count) if kind == "leave" else -1
        return Question(kind, "tell", [nonce, count], [nonce, count], chunks, keep=keep)
    if kind == "items":
        items = [[nonce, at, chance.randbytes(chance.randrange(200))] for at in range(chance.randrange(1, 80))]
        return Question(kind, "echo", items, items, items)
    data = chance.randbytes(LARGE_BYTES if kind == "large" else chance.randrange(2000))
    if kind in ("echo", "large"):
        return Question(kind, "echo", [nonce, data], [nonce, data])
    answer = [nonce, hashlib.sha256(data).hexdigest()]
    if kind == "once":
        return Question(kind, "once", [nonce, data], answer)
    if kind == "hasty":
        return Question(kind, "digest", [nonce, data], answer, timeout_s=chance.uniform(*HASTY_S))
    return Question(kind, "digest", [nonce, b"die" if kind == "poison" else data], answer)


def flaw(question: Question, chunks: Sequence[Any], result: Any) -> str:
    """Return what is wrong with an answer, empty if nothing is."""
    if question.chunks is not None:
        expected = [*question.chunks] if question.keep < 0 else [*question.chunks[: question.keep]]
        if [*chunks] != expected:
            twice = len(chunks) > len({repr(chunk) for chunk in chunks})
            at = next((n for n, (a, b) in enumerate(zip(chunks, expected, strict=False)) if a != b), len(chunks))
            return f"{'doubled' if twice else 'wrong'}: {len(chunks)} of {len(expected)} chunks, not the same from {at}"
    if question.keep < 0 and result != question.result:
        return f"wrong: result {str(result)[:80]!r}, not {str(question.result)[:80]!r}"
    return ""
