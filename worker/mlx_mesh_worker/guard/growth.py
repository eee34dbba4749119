"""How a worker grows: slowly over minutes, or so fast that it must be seen within seconds."""

from __future__ import annotations

from typing import Final

from mlx_mesh_worker.guard.trend import Trend

FAST_WINDOW_S: Final = 30.0
FAST_BUCKET_S: Final = 1.0
FAST_HISTORY_S: Final = 8.0
"""A prompt that is being read looks like a leak for so long, so this counts only when memory is short already."""


class Growth:
    """Both trends of one process."""

    __slots__ = ("_fast", "_slow")

    def __init__(self) -> None:
        self._slow = Trend()
        self._fast = Trend(FAST_WINDOW_S, FAST_BUCKET_S, FAST_HISTORY_S)

    def add(self, now: float, taken: int) -> None:
        """Note that it took so many bytes."""
        self._slow.add(now, taken)
        self._fast.add(now, taken)

    @property
    def baseline(self) -> int:
        """What it took at first, in bytes."""
        return self._slow.baseline

    @property
    def slope(self) -> float:
        """Return by how many bytes per second it grows."""
        return self._slow.slope or self._fast.slope

    def leaking(self, now: float) -> bool:
        """Whether it has grown for minutes, all the time."""
        return self._slow.leaking(now)

    def suspicious(self, now: float) -> bool:
        """Whether it has grown for some seconds, all the time; for a choice when somebody has to go."""
        return self.leaking(now) or self._fast.leaking(now)
