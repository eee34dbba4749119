"""What a worker measures of itself."""

from __future__ import annotations

import os
import sys
import time

from mlx_mesh_wire import host
from mlx_mesh_wire.host import process_start


def resident_bytes() -> int:
    """Return the resident set size of this process; 0 if it cannot be told."""
    try:
        return host.resident_bytes(os.getpid()) or 0
    except ImportError:
        return 0


def age_s() -> float:
    """Return the seconds since this process started, in steps of 10 ms; 0 where the kernel does not tell."""
    if sys.platform == "linux":
        ticks = os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - process_start(os.getpid()) / ticks
    started = process_start(os.getpid())
    return max(0.0, time.time() - started / 1000) if started else 0.0
