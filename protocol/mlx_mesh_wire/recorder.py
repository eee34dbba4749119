"""The flight recorder: which jobs a worker was computing when it died.

A worker writes the job ids of each step into a small mapped file before the step, and clears it after. Stores to a
shared mapping need no system call and survive SIGKILL, since the page belongs to the kernel. Whoever notices the death
reads the file.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, Final

from mlx_mesh_wire.host import EXHAUSTED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

JOBS_MAX: Final = 511
"""What fits behind the count into one page; a step of more jobs records the first ones."""

_SIZE = 8 * (JOBS_MAX + 1)
_COUNT = struct.Struct("=Q")
_LAYOUTS = [struct.Struct(f"={n}Q") for n in range(JOBS_MAX + 1)]


def _path(run_dir: Path, instance: bytes) -> Path:
    return run_dir / "recorders" / instance.hex()


class FlightRecorder:
    """The writing end; one for each worker process."""

    def __init__(self, run_dir: Path, instance: bytes) -> None:
        self._path = _path(run_dir, instance)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
            self._cells = memoryview(self._map).cast("Q")
        finally:
            os.close(descriptor)

    def begin(self, job_ids: Sequence[int]) -> None:
        """Record the jobs of the step that starts now. The count goes last, so a torn write shows fewer jobs."""
        cells = self._cells
        count = len(job_ids)
        cells[0] = 0
        if count == 1:  # Every admission comes here; the general way takes three times as long.
            cells[1] = job_ids[0]
        else:
            count = min(count, JOBS_MAX)
            _LAYOUTS[count].pack_into(self._map, 8, *job_ids[:count])
        cells[0] = count

    def end(self) -> None:
        """Record that nothing is being computed."""
        self._cells[0] = 0

    def close(self) -> None:
        """Remove the record: this process leaves in good order."""
        self._cells.release()
        self._map.close()
        self._path.unlink(missing_ok=True)


def read_running(run_dir: Path, instance: bytes) -> frozenset[int] | None:
    """Return the job ids of the step that a dead worker was in; None when it left no record.

    An empty set also stands for a record that cannot be read now, since this process has no descriptor or memory left.
    None means that any job may have been running, so that all are suspects; soon, innocent ones would be called
    poison. It is better to suspect nobody: what did kill the worker is found out at its next death.
    """
    try:
        data = _path(run_dir, instance).read_bytes()
    except OSError as error:
        return frozenset() if error.errno in EXHAUSTED else None
    if len(data) != _SIZE:
        return None
    count = min(_COUNT.unpack_from(data)[0], JOBS_MAX)
    return frozenset(_LAYOUTS[count].unpack_from(data, 8))


def discard(run_dir: Path, instance: bytes) -> None:
    """Remove the record of a dead worker."""
    _path(run_dir, instance).unlink(missing_ok=True)
