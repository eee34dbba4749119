"""Counts finished texts and tells their rate without the ragged ends."""

from __future__ import annotations

import time

from benchmarks.figures import slope


class Tally:
    """Notes each answer after the warm-up.

    Answers come in bursts, since a batch holds texts of many requests. The rate is therefore the slope of the straight
    line that fits the running count best, which owes little to where in a burst the time begins and ends.
    """

    def __init__(self, warm_s: float, seconds: float) -> None:
        now = time.perf_counter()
        self._from = now + warm_s
        self._until = now + warm_s + seconds
        self._times: list[float] = []
        self._counts: list[float] = []
        self._texts = 0

    @property
    def over(self) -> bool:
        """Whether the time has passed."""
        return time.perf_counter() >= self._until

    def add(self, texts: int) -> None:
        """An answer for so many texts came."""
        now = time.perf_counter()
        if self._from <= now <= self._until:
            self._texts += texts
            self._times.append(now)
            self._counts.append(self._texts)

    def texts_per_s(self) -> float:
        """Return the rate.

        Raises:
            ValueError: too few answers came in time.
        """
        return slope(self._times, self._counts)
