"""The whole machine, by psutil: how much memory there is, how much of it is taken, and how much of it is on disk."""

from __future__ import annotations

import psutil

from mlx_mesh_wire.guard_report import Limit


def total_memory() -> int:
    """Return the bytes of memory that this machine has."""
    return int(psutil.virtual_memory().total)


def ram(reserve_bytes: int) -> Limit:
    """Return what is taken of the machine's memory, and what may be if ``reserve_bytes`` are to stay free.

    "Available" is the kernel's own estimate of what can be had without swapping: caches that it would drop count as
    free. A machine may be given less memory while it runs, so a limit below the reserve is 1 byte, not an error.
    """
    memory = psutil.virtual_memory()
    return Limit("ram", max(0, memory.total - memory.available), max(1, memory.total - reserve_bytes))


def swap_used() -> int:
    """Return the bytes of swap in use."""
    return int(psutil.swap_memory().used)
