"""What requests ask for and what answers hold, as plain bytes: an answer names the request that it belongs to."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING

from mlx_mesh_wire import pack_body
from mlx_mesh_wire.messages import Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Final", "answer", "content_of", "cost_of", "kind_of", "request", "text_of", "tokens"]

_FORM = Struct("<QfB")

PLAIN, TEXT, POISON, BROKEN, NO_MEMORY, BUSY, OVERSIZED, CRASH = range(8)
"""Kinds: an answer; a stream; kills the worker each time; errors of the engine (not to be tried again, out of memory,
to be tried again); over the limits; kills the first worker that computes it."""

CHUNK_MAX = 4
"""Tokens in one chunk at most."""


def request(content: int, cost_s: float, kind: int, model: str) -> bytes:
    """Return the body of a request.

    Args:
        content: what is asked. For pure ops equal content means equal work; otherwise it is the number of the call.
        cost_s: seconds of computing; for a stream, of each token.
        kind: one of the kinds above; a TEXT has ``content % 60 + 1`` tokens.
        model: named in the body too, so that an answer from another model can be told.
    """
    return _FORM.pack(content, cost_s, kind) + model.encode()


def kind_of(body: bytes) -> int:
    """Return the kind."""
    return body[12]


def cost_of(body: bytes) -> float:
    """Return the seconds that it takes."""
    return _FORM.unpack_from(body)[1]


def content_of(body: bytes) -> int:
    """Return what is asked."""
    return _FORM.unpack_from(body)[0]


def answer(body: bytes, model: str) -> tuple[bytes]:
    """Return the frames of the answer to a request that is no stream, computed on a model."""
    return (b"=" + body + b"@" + model.encode(),)


def text_of(body: bytes) -> int:
    """Return how many tokens a text has."""
    return content_of(body) % 60 + 1


@lru_cache(maxsize=4096)
def tokens(content: int, first: int, end: int) -> Sequence[bytes]:
    """Return the frames of a chunk, or of the result, of a text: its tokens from ``first`` up to ``end``."""
    base = content % 1000 * 1000
    return pack_body({"tokens": list(range(base + first, base + end))})
