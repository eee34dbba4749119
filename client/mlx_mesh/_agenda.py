"""Deadlines and retries of calls, in order. Calls that ended are dropped once they are the larger part."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_mesh._pending import Pending

STALE_MAX: Final = 256
"""Below that a rebuild costs more than it frees."""


class Agenda:
    """What is to be done with which call at what time."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Pending, bool]] = []
        self._count = 0
        self._stale = 0

    def __iter__(self) -> Iterator[Pending]:
        return (entry[2] for entry in self._entries)

    def add(self, when: float, pending: Pending, *, retry: bool) -> None:
        """Note the deadline of a call, or when to try it again."""
        self._count += 1
        heappush(self._entries, (when, self._count, pending, retry))

    def due(self, now: float) -> tuple[Pending, bool] | None:
        """Remove and return a call whose time has come and whether it is to be tried again; None if there is none."""
        while self._entries and self._entries[0][0] <= now:
            _, _, pending, retry = heappop(self._entries)
            if not pending.ended:
                return pending, retry
            self._stale -= not retry
        return None

    def next(self) -> float | None:
        """Return when ``due`` has something next; nobody is to be woken for a call that has ended."""
        entries = self._entries
        while entries and entries[0][2].ended:
            self._stale -= not heappop(entries)[3]
        return entries[0][0] if entries else None

    def ended(self) -> None:
        """A call ended; its deadline is still in here. The cost of dropping it is constant on average."""
        self._stale += 1
        if self._stale > STALE_MAX and self._stale * 2 > len(self._entries):
            self._entries = [entry for entry in self._entries if not entry[2].ended]
            self._entries.sort()
            self._stale = 0
