"""Whether compute advances: what the broker is told of it, and what is done when it does not."""

from __future__ import annotations

import faulthandler
import sys
from typing import TYPE_CHECKING, Final

from mlx_mesh_wire.logs import log

if TYPE_CHECKING:
    from mlx_mesh_worker.compute import Compute
    from mlx_mesh_worker.settings import WorkerSettings

LOOK_S: Final = 1.0
"""How often the compute thread is looked at, and the timer set anew."""

GRACE_S: Final = 5.0
"""The timer in C waits so much longer than the I/O thread, which says more of what happened."""

DUMP_S: Final = 10.0
"""Least time between two dumps that were asked for: a worker that stays stalled shows the same stacks again."""


class Watchdog:
    """Watches the compute thread for the I/O thread.

    Args:
        compute: what is watched.
        settings: how long a step and a load may take.

    Attributes:
        next_look: when :meth:`stuck` has something to do.
    """

    def __init__(self, compute: Compute, settings: WorkerSettings) -> None:
        self._compute = compute
        self._stuck_s = settings.stuck_s
        self._load_max_s = settings.load_max_s
        self._beats_of_loads = 0
        self._dumped = float("-inf")
        self.next_look = 0.0

    def stuck(self, now: float) -> bool:
        """Look at the compute thread once in ``LOOK_S``; True, with every stack in the log, if the process must end.

        Each look also sets a timer in C, which ends the process if no further look comes: it needs no interpreter,
        and so catches an engine that holds it.
        """
        if now < self.next_look:
            return False
        self.next_look = now + LOOK_S
        what, since, limit = self._under_way()
        faulthandler.dump_traceback_later(limit + GRACE_S, exit=True)
        if since is None or now - since <= limit:
            return False
        log("error", "stuck", what=what, seconds=round(now - since, 1), limit=limit)
        _write_stacks()
        return True

    def progress(self, now: float) -> int:
        """Return how far compute has come, for a beat.

        While an engine loads within a step, every beat is a step forward: nobody is to take that for a stall. It
        lasts as long as a load may.
        """
        runner = self._compute.runner
        if runner is None:
            return 0
        since = runner.loading_since
        if since is not None and now - since <= self._load_max_s:
            self._beats_of_loads += 1
        return runner.progress + self._beats_of_loads

    def dump(self, now: float, reason: str) -> None:
        """Write every stack to the log, since the broker asks for it: compute does not advance."""
        if now < self._dumped + DUMP_S:
            return
        self._dumped = now
        log("warning", "stalled", reason=reason)
        _write_stacks()

    def close(self) -> None:
        """Take back the timer."""
        faulthandler.cancel_dump_traceback_later()

    def _under_way(self) -> tuple[str, float | None, float]:
        """Return what compute does, since when (None if it rests), and how long that may take."""
        runner = self._compute.runner
        if runner is None:
            return "loading", self._compute.loading_since, self._load_max_s
        loading = runner.loading_since
        if loading is not None:
            return "loading", loading, self._load_max_s
        return "step", runner.step_since, self._stuck_s


def _write_stacks() -> None:
    faulthandler.dump_traceback(all_threads=True)
    sys.stderr.flush()
