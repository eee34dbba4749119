"""What the process of a worker takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_wire.host import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_mesh_worker.guard.sources.macos import MacOS


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
    own = macos.footprint(pid) if macos is not None else resident_bytes(pid)
    return None if own is None else own + on_devices.get(pid, 0)
