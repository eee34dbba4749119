"""Gives memory back to the operating system once a flood is over; the C library keeps what was freed for the next one.

Messages are allocated by ZeroMQ's thread and freed by the broker's, which leaves holes that glibc gives back only when
it is asked to: after ten seconds of 90 MB messages it kept 80 MB, for good. Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from mlx_mesh_wire.host import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 1.0
QUIET_MESSAGES = 5000
"""Messages between two looks that leave time for giving memory back, which takes some milliseconds for 100 MB."""

PAUSE_S, PAUSE_MAX_S = 5.0, 600.0
"""Between two times; longer and longer while nothing comes of it, as when results are kept on purpose."""

KEPT_BYTES = 16 << 20
"""What it must hold above the least that it ever held."""


def trimmer() -> Callable[[int], int] | None:
    """Return glibc's ``malloc_trim``, if it is there."""
    if sys.platform != "linux":
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def own_resident_bytes() -> int:
    """Return what this process holds of the memory."""
    return resident_bytes(os.getpid()) or 0


class Memory:
    """Decides when to give memory back.

    Args:
        trim: does it; None where that cannot be done.
        resident: tells what the process holds, in bytes.
    """

    def __init__(self, trim: Callable[[int], int] | None, resident: Callable[[], int] = own_resident_bytes) -> None:
        self._trim = trim
        self._resident = resident
        self._look_at = self._trim_at = 0.0
        self._pause_s = PAUSE_S
        self._messages = 0
        self._least: int | None = None
        self._before = 0

    def tend(self, now: float, messages: int) -> None:
        """Give memory back if there is some, and little to do; ``messages`` is how many there ever were."""
        if self._trim is None or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        quiet = messages - self._messages < QUIET_MESSAGES
        self._messages = messages
        with suppress(OSError):  # There may be no descriptor left to look by.
            self._give_back(now, quiet, self._trim)

    def _give_back(self, now: float, quiet: bool, trim: Callable[[int], int]) -> None:
        resident = self._resident()
        self._least = resident if self._least is None else min(self._least, resident)
        if resident > self._before + KEPT_BYTES:
            self._pause_s, self._trim_at = PAUSE_S, min(self._trim_at, now)
        if quiet and now >= self._trim_at and resident > self._least + KEPT_BYTES:
            trim(0)
            self._before = self._resident()
            freed = self._before < resident - KEPT_BYTES
            self._pause_s = PAUSE_S if freed else min(2 * self._pause_s, PAUSE_MAX_S)
            self._trim_at = now + self._pause_s
