"""Bytes as a tape of choices, so that what the fuzzer changes in them changes one decision at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Tape:
    """Reads choices off bytes; at the end every choice is the first one.

    Attributes:
        left: whether anything is left.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return the next byte; 0 at the end."""
        at = self._at
        if at >= len(self._data):
            return 0
        self._at = at + 1
        return self._data[at]

    def pick(self, options: Sequence[T]) -> T:
        """Return one of at most 256 options."""
        return options[self.byte() % len(options)]

    def blob(self) -> bytes:
        """Return up to 255 bytes as they are."""
        length = self.byte()
        start = self._at
        self._at = min(start + length, len(self._data))
        return self._data[start : self._at]

    def rest(self) -> bytes:
        """Return all that is left."""
        start, self._at = self._at, len(self._data)
        return self._data[start:]
