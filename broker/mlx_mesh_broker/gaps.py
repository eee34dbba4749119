"""How long the broker's loop was away from its sockets."""

from __future__ import annotations

WINDOW_S = 60.0
"""A figure is shown for this long at least, so that a scrape every half minute sees each."""


class Gaps:
    """The longest gap of the last one or two windows; noting one costs the loop a comparison or two."""

    def __init__(self) -> None:
        self._before_s = 0.0
        self._longest_s = 0.0
        self._ends = WINDOW_S

    def note(self, now: float, gap_s: float) -> None:
        """Take note that nobody looked at the sockets for so many seconds before ``now``."""
        if now >= self._ends:
            self._turn(now)
        self._longest_s = max(self._longest_s, gap_s)

    def longest_s(self, now: float) -> float:
        """Return the longest gap of the last minute, or two."""
        if now >= self._ends:
            self._turn(now)
        return max(self._longest_s, self._before_s)

    def _turn(self, now: float) -> None:
        self._before_s = self._longest_s if now < self._ends + WINDOW_S else 0.0
        self._longest_s = 0.0
        self._ends = now + WINDOW_S
