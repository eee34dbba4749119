"""The second SIGTERM, which makes a worker hand its work back and leave at once.

It cannot follow on the heels of the first: two that come before a process gets to look are one. supervisord may
sleep for a second in its loop, so a timer of the kernel keeps the distance.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Final

PAUSE_S: Final = 0.15
"""A worker that computes looks at its signals within milliseconds; one that cannot will not heed a second either."""

TIMES: Final = 40
"""Six seconds long, in case the first ones were one nevertheless: to a process that the machine had no time for. What
comes after the second changes nothing. Afterwards supervisord's SIGKILL is waited for."""


class Hurry:
    """Sends the stop signal again to processes that are to hurry, until they are gone or were told often enough."""

    def __init__(self) -> None:
        self._told: list[tuple[Any, int, int]] = []

    def add(self, process: Any) -> None:
        """Have a process that was told to stop told again, shortly."""
        # In this order: the timer may go off in between, find nobody left to tell, and end itself.
        self._told.append((process, process.pid, TIMES))
        signal.signal(signal.SIGALRM, self._tell)
        signal.setitimer(signal.ITIMER_REAL, PAUSE_S, PAUSE_S)

    def _tell(self, *_: object) -> None:
        left = []
        for process, pid, times in self._told:
            # supervisord has not reaped it, so the pid is still its own.
            if process.pid == pid and process.killing:
                # Whatever the kernel has against it (a program with a user of its own): raised in a handler, it would
                # end supervisord.
                with contextlib.suppress(OSError):
                    os.kill(pid, process.config.stopsignal)
                if times > 1:
                    left.append((process, pid, times - 1))
        self._told = left
        if not left:
            signal.setitimer(signal.ITIMER_REAL, 0)
