"""Which jobs are being computed, written where it outlives the process."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_worker.job import Job


class Record:
    """What the flight recorder says of this process.

    The thread that computes calls ``begin`` and ``end``. The I/O thread calls ``renamed`` after it has given jobs
    other ids, which may happen in the middle of their step. The lock makes each of these whole: whoever comes second
    writes the ids as they are then.

    Args:
        write: stores job ids; told nothing but ids of the present epoch.
        clear: stores that there are none.
    """

    def __init__(self, write: Callable[[Sequence[int]], None], clear: Callable[[], None]) -> None:
        self._write = write
        self._clear = clear
        self._lock = Lock()
        self._jobs: Sequence[Job] = ()

    def begin(self, jobs: Sequence[Job]) -> None:
        """These jobs are computed from now on: a death is to be blamed on them."""
        with self._lock:
            self._jobs = jobs
            self._write([job.id for job in jobs if job.id > 0])

    def end(self) -> None:
        """Nothing is being computed."""
        with self._lock:
            self._jobs = ()
            self._clear()

    def renamed(self) -> None:
        """Some jobs have other ids now."""
        with self._lock:
            if self._jobs:
                self._write([job.id for job in self._jobs if job.id > 0])
