"""What the process of a worker takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_mesh_worker.guard.sources.macos import MacOS

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def footprint(pid: int, macos: MacOS | None, on_devices: Mapping[int, int]) -> int | None:
    """Return the bytes that a process takes; None if it is gone.

    On Linux this is its resident set, the ``rss`` of its beats, and what it holds on devices of NVIDIA. On macOS it
    is its physical footprint, which has memory of the GPU in it.

    Args:
        pid: of the process.
        macos: asked on macOS.
        on_devices: bytes on devices, by pid.

    Raises:
        OSError: it cannot be told.
        ValueError: ``/proc/PID/statm`` is not as documented.
        psutil.Error: it cannot be told.
    """
    own = macos.footprint(pid) if macos is not None else resident(pid)
    return None if own is None else own + on_devices.get(pid, 0)


def resident(pid: int) -> int | None:
    """Return the resident set of a process in bytes; None if it is gone. A zombie is gone: it holds nothing."""
    if sys.platform != "linux":
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return None
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(fields) < 2:  # noqa: PLR2004  the size, and what of it is resident
        raise ValueError(f"/proc/{pid}/statm is {fields}")
    return int(fields[1]) * PAGE_BYTES or None
