"""Whether something grows: a line is fitted to each life of a process once it is warm."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.figures import slope
from tests.soak.sampling import Lives, Sample

WARM_SHARE = 1 / 3
"""Of a life: caches fill, the allocator's heap becomes as large as it gets."""

LIFE_MIN_SAMPLES = 60
"""Shorter lives tell nothing."""

RSS_FLOOR = 3 << 20
RSS_SHARE = 0.03
"""Growth over what is left of a life, in bytes and as a share, that the steps of a heap may look like."""

FDS_MAX = 3
THREADS_MAX = 1


class Line(NamedTuple):
    """What was found of one figure of one life.

    Attributes:
        level: its median once it is warm.
        an_hour: the slope of the line.
        grown: what the line rises by from the end of the warm-up to the end.
    """

    process: str
    figure: str
    level: float
    an_hour: float
    grown: float
    hours: float
    allowed: float

    @property
    def verdict(self) -> str:
        return "GROWING" if self.grown > self.allowed else "FLAT"


def lines(lives: Lives) -> list[Line]:
    """Return the lines of all lives that were long enough."""
    found = []
    for (name, pid), samples in lives.items():
        warm = samples[int(len(samples) * WARM_SHARE) :]
        if len(samples) < LIFE_MIN_SAMPLES or warm[-1].at_s <= warm[0].at_s:
            continue
        level = median(each.rss for each in warm)
        allowed = {"rss": max(RSS_FLOOR, RSS_SHARE * level), "fds": FDS_MAX, "threads": THREADS_MAX}
        found += [_line(f"{name} {pid}", figure, warm, most) for figure, most in allowed.items()]
    return found


def _line(process: str, figure: str, warm: Sequence[Sample], allowed: float) -> Line:
    times = [each.at_s / 3600 for each in warm]
    values = [float(getattr(each, figure)) for each in warm]
    an_hour = slope(times, values)
    hours = times[-1] - times[0]
    return Line(process, figure, median(values), an_hour, an_hour * hours, hours, allowed)


def told(line: Line) -> str:
    """Return a line for people."""
    unit, scale = (" MiB", 1 << 20) if line.figure == "rss" else ("", 1)
    return (
        f"{line.verdict:<8} {line.process:<20} {line.figure:<8} {line.level / scale:8.1f}{unit}, "
        f"{line.grown / scale:+.2f}{unit} in {line.hours * 60:.0f} min ({line.an_hour / scale:+.2f}{unit}/h, "
        f"allowed {line.allowed / scale:.1f}{unit})"
    )
