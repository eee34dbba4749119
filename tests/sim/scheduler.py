"""Time: a heap of what is to happen, in order of time and then of when it was decided."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Entry = "tuple[float, int, Callable[[Any], None], Any]"

START_S = 1000.0
"""Where the clock begins; nothing may depend on its being near zero."""


class Scheduler:
    """Calls functions at times.

    Attributes:
        now: simulated seconds.
        heap: entries ``(time, number, function, argument)``; hot paths push to it themselves.
        number: of the next entry, so that what is due at one time happens in the order in which it was decided.
        happened: entries so far.
    """

    __slots__ = ("happened", "heap", "now", "number", "stopped")

    def __init__(self) -> None:
        self.now = START_S
        self.heap: list[Any] = []
        self.number = 0
        self.happened = 0
        self.stopped = False

    def at(self, when: float, call: Callable[[Any], None], argument: Any = None) -> None:
        """Have ``call(argument)`` called at a time, or now if that has passed."""
        self.number = number = self.number + 1
        heappush(self.heap, (max(self.now, when), number, call, argument))

    def after(self, seconds: float, call: Callable[[Any], None], argument: Any = None) -> None:
        """Have ``call(argument)`` called so many seconds from now."""
        self.at(self.now + seconds, call, argument)

    def run(self, until: float) -> None:
        """Let time pass until then, or until somebody sets ``stopped``."""
        heap = self.heap
        happened = 0
        self.stopped = False
        try:
            while heap and not self.stopped:
                entry = heappop(heap)
                when, _, call, argument = entry
                if when > until:
                    heappush(heap, entry)
                    break
                self.now = when
                happened += 1
                call(argument)
        finally:
            self.happened += happened
        if not self.stopped:
            self.now = max(self.now, until)
