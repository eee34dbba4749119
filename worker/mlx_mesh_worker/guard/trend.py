"""Whether a process grows, and whether that is a leak. Pure: time is passed in."""

from __future__ import annotations

import math
from collections import deque
from itertools import combinations, pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20

BASELINE_S = 10.0
"""How long a worker that has just become ready is watched for its baseline."""

GROWTH_SHARE = 0.05
GROWTH_BYTES = 16 * MIB
"""Less than the larger of the two is no leak: allocators and caches of Python and MLX breathe by as much."""

POINTS = 12
"""Points that a window is cut into, whatever its length: 66 pairs, which take some 20 us."""

POINTS_MIN = 4
"""With fewer, a line through them means nothing."""

RISING_SHARE = 0.8
"""More than this share of the steps from point to point must rise. By chance one series of 720 does, with 6 points."""

RISE_SHARE = 0.25
"""A step counts as rising from this share of the average one, so that noise around a single step does not."""


class Point(NamedTuple):
    """The least that was seen in one bucket; buckets are numbered from the first sample on."""

    bucket: int
    bytes: int


class Trend:
    """The growth of one process.

    It keeps the minimum of each bucket: batches come and go within one, a leak stays. The slope is the median of the
    slopes between all pairs of points (Theil-Sen): a step, such as the first long prompt or a model that is loaded
    on demand, pulls a line of least squares up wherever it is, and the median only from the middle of the window.
    That is why most steps from point to point have to rise too.

    A leak of 20 MB/s takes a gigabyte before six buckets of 10 s are over. For such ones there are short buckets: with
    1 s, a window of 30 s and a history of 10 s it is found after 11 s. They take a long prompt that is being read for a
    leak too, so what they say is for choosing whom to recycle when memory is short already.

    Args:
        window_s: how far back it looks.
        bucket_s: length of a bucket.
        history_s: how much has to be known before anything is called a leak.
    """

    __slots__ = ("_baseline", "_bucket_s", "_history_s", "_leaking", "_least", "_number", "_points", "_slope", "_start")

    def __init__(self, window_s: float = 600.0, bucket_s: float = 10.0, history_s: float = 60.0) -> None:
        self._bucket_s = bucket_s
        self._history_s = history_s
        self._points: deque[Point] = deque(maxlen=max(POINTS_MIN, math.ceil(window_s / bucket_s)))
        self._start = 0.0
        self._baseline: int | None = None
        self._number = 0
        self._least: int | None = None
        self._slope = 0.0
        self._leaking = False

    @property
    def baseline(self) -> int:
        """The least in the first 10 s, in bytes; 0 before the first sample."""
        return self._baseline or 0

    def add(self, now: float, taken: int) -> None:
        """Note that the process took so many bytes at ``now``, in seconds of a clock that does not go back."""
        if self._baseline is None:
            self._start = now
            self._baseline = taken
        elif now - self._start < BASELINE_S:
            self._baseline = min(self._baseline, taken)
        self._turn(now)
        self._least = taken if self._least is None else min(self._least, taken)

    @property
    def slope(self) -> float:
        """By how many bytes per second it has grown, as of the last whole bucket; 0 as long as that cannot be told."""
        return self._slope

    def leaking(self, now: float) -> bool:
        """Return whether it grows by enough, for long enough, and all the time."""
        self._turn(now)
        return self._leaking

    def _turn(self, now: float) -> None:
        """Close the bucket that is over. Only whole ones count: half a bucket may have no quiet moment in it."""
        number = int((now - self._start) / self._bucket_s)
        if self._baseline is None or number <= self._number:
            return
        if self._least is not None:
            self._points.append(Point(self._number, self._least))
            self._least = None
        self._number = number
        oldest = number - (self._points.maxlen or 0)
        while self._points and self._points[0].bucket < oldest:
            self._points.popleft()
        self._judge(_thinned(self._points))

    def _judge(self, points: list[Point]) -> None:
        """Work out the slope and whether it is a leak: once for each bucket, since nothing changes in between."""
        self._slope, self._leaking = 0.0, False
        if len(points) < POINTS_MIN:
            return
        slope = _theil_sen(points)
        self._slope = slope / self._bucket_s
        known_s = (self._number - points[0].bucket) * self._bucket_s
        growth = slope * (points[-1].bucket - points[0].bucket)
        if known_s >= self._history_s and growth >= max(GROWTH_BYTES, GROWTH_SHARE * self.baseline):
            steps = [after.bytes - before.bytes for before, after in pairwise(points)]
            rising = sum(step >= RISE_SHARE * growth / len(steps) for step in steps)
            self._leaking = rising > RISING_SHARE * len(steps)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most POINTS points, each the least of as many buckets as the others; the oldest may be left out."""
    size = max(1, math.ceil(len(points) / POINTS))
    whole = list(points)[len(points) % size :]
    groups = [whole[first : first + size] for first in range(0, len(whole), size)]
    return [Point(group[0].bucket, min(point.bytes for point in group)) for group in groups]


def _theil_sen(points: Sequence[Point]) -> float:
    """Return the median slope, in bytes per bucket, of the lines through any two points."""
    return median(
        (after.bytes - before.bytes) / (after.bucket - before.bucket) for before, after in combinations(points, 2)
    )
