"""The tokens of a text that have come, kept so that another worker can go on from the last one."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import DecodeError, unpack_body

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKEN_BYTES: Final = 4

STATE_MAX_BYTES: Final = 4 * 1024 * 1024
"""A million tokens, which is the longest answer that may be asked for. A request has to leave room for it."""


class Received:
    """Tokens of a stream of ``generate`` or ``chat``, in order."""

    __slots__ = ("_tokens", "_unknown")

    def __init__(self) -> None:
        self._tokens = array("I")
        self._unknown = False

    def add(self, frames: Sequence[bytes]) -> None:
        """Take in a chunk; one that names no tokens, from an engine of another kind, makes the state unknown."""
        try:
            value: Any = unpack_body(frames)
            self._tokens.extend(value["tokens"])
        except (DecodeError, LookupError, TypeError, OverflowError):
            self._unknown = True

    def state(self) -> bytes | None:
        """Return what a worker goes on from: the ids, each as a little-endian integer of 32 bits; None if unknown."""
        if self._unknown or len(self._tokens) * TOKEN_BYTES > STATE_MAX_BYTES:
            return None
        if sys.byteorder == "little":
            return self._tokens.tobytes()
        swapped = array("I", self._tokens)
        swapped.byteswap()
        return swapped.tobytes()
