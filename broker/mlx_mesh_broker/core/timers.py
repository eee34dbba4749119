"""Deadlines with exact removal: a wheel of buckets, so that memory holds only what still waits.

A heap with lazy deletion would keep every finished request until its deadline, 60 s of traffic. Here an entry costs
one dict slot and goes when it is removed. Buckets are 5 ms wide; what lies over a minute ahead waits in buckets of
32 s and is sorted again when their time comes, so the number of buckets stays below 40,000 at any load.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import ceil
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_S = 0.005
"""Resolution: a deadline is noticed at most this late."""

_FAR_S = 64.0
_FAR_TICKS = 6400
_EMPTY: dict[Timed, None] = {}


class Timed(Protocol):
    """Something with a time. ``tick`` belongs to the wheel; -1 while not in it."""

    due: float
    tick: int


class Alarm:
    """A call at a time."""

    __slots__ = ("call", "due", "tick")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.due = 0.0
        self.tick = -1


class Timers:
    """All that waits for a time."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._ticks: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __contains__(self, item: Timed) -> bool:
        return item in self._buckets.get(item.tick, _EMPTY)

    def add(self, item: Timed, now: float) -> None:
        """Add an item that is not in the wheel, for the time in ``item.due``."""
        due = item.due
        tick = ceil(due / TICK_S) if due - now < _FAR_S else int(due / TICK_S) // _FAR_TICKS * _FAR_TICKS
        item.tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {item: None}
            heappush(self._ticks, tick)
        else:
            bucket[item] = None

    def remove(self, item: Timed) -> None:
        """Remove an item; nothing happens if it is not in the wheel."""
        if item.tick >= 0:
            del self._buckets[item.tick][item]
            item.tick = -1

    def set(self, item: Timed, due: float, now: float) -> None:
        """Move an item, in the wheel or not, to a new time."""
        self.remove(item)
        item.due = due
        self.add(item, now)

    def next(self) -> float | None:
        """Return when ``pop`` may have something next, or None."""
        while self._ticks:
            tick = self._ticks[0]
            if self._buckets[tick]:
                return tick * TICK_S
            del self._buckets[heappop(self._ticks)]
        return None

    def pop(self, now: float) -> Timed | None:
        """Remove and return something that is due, or None; what is removed meanwhile does not come any more."""
        while self._ticks and self._ticks[0] * TICK_S <= now:
            bucket = self._buckets[self._ticks[0]]
            if not bucket:
                del self._buckets[heappop(self._ticks)]
                continue
            item, _ = bucket.popitem()
            item.tick = -1
            # The half tick covers the rounding of the tick's own time.
            if item.due <= now + TICK_S / 2:
                return item
            self.add(item, now)
        return None
