"""What one input may cost: time of the CPU and memory. Waiting for a busy machine is nobody's fault."""

from __future__ import annotations

import resource
import sys
import tracemalloc
from time import perf_counter, thread_time

from tests.fuzz.targets import Target

TIME_MAX_S = 0.1
MEMORY_MAX_BYTES = 20 * 1024 * 1024
TRIES = 3
"""A collection of garbage, or another process in the caches, may make one run slow, but not three."""

LOOK = 2048
"""Inputs between two looks at the peak of the process, which costs a system call. Of one in so many all allocations are
counted.
"""

_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class TooCostlyError(AssertionError):
    """One input took more time or memory than it may."""


class Budget:
    """Runs inputs of a target and measures each.

    Args:
        one: the target.
        time_max_s: of the CPU; code that counts its branches is slower and may be given more.
    """

    def __init__(self, one: Target, time_max_s: float = TIME_MAX_S) -> None:
        self._one = one
        self._time_max_s = time_max_s
        self._peak = _peak_bytes()
        self._recent: list[bytes] = []

    def run(self, data: bytes) -> int:
        """Return how many inputs there were in ``data``.

        Raises:
            TooCostlyError: more than :data:`TIME_MAX_S` or :data:`MEMORY_MAX_BYTES`.
        """
        start = perf_counter()
        inputs = self._one(data)
        if perf_counter() - start > self._time_max_s:
            self._again(data)
        self._recent.append(data)
        if len(self._recent) == LOOK:
            self._look()
        return inputs

    def _look(self) -> None:
        """Measure the inputs since the last look if one of them must have taken much memory, else the last one only."""
        recent, self._recent = self._recent, []
        before, self._peak = self._peak, _peak_bytes()
        for data in recent if self._peak - before > MEMORY_MAX_BYTES else recent[-1:]:
            self.measure(data)

    def measure(self, data: bytes) -> int:
        """Run one input with every allocation counted; return the peak in bytes."""
        tracemalloc.start()
        try:
            self._one(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if peak > MEMORY_MAX_BYTES:
            raise TooCostlyError(f"an input of {len(data)} bytes took {peak} bytes, allowed are {MEMORY_MAX_BYTES}")
        return peak

    def _again(self, data: bytes) -> None:
        took_s = min(self._timed(data) for _ in range(TRIES))
        if took_s > self._time_max_s:
            raise TooCostlyError(f"an input of {len(data)} bytes took {took_s:.3f} s, allowed are {self._time_max_s} s")

    def _timed(self, data: bytes) -> float:
        start = thread_time()
        self._one(data)
        return thread_time() - start


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES
