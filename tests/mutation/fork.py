"""Work in a process of its own, which tells what it finds on the way and what came of it at the end."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any


class Fork:
    """A process that does some work now. The work gets what it may tell by, and what it returns is the result."""

    def __init__(self, work: Callable[[Callable[[Any], None]], Any], *, mute: bool = False) -> None:
        self._receiver, sender = Pipe(duplex=False)
        self._pid = os.fork()
        if self._pid == 0:
            self._receiver.close()
            try:
                if mute:
                    hush()
                sender.send(("result", work(lambda found: sender.send(("told", found)))))
            except BaseException:  # noqa: BLE001  whoever waits is told
                sender.send(("failed", traceback.format_exc()))
            os._exit(0)
        sender.close()

    def result(self, told: Callable[[Any], None]) -> Any:
        """Pass on what is told until the end, and return the result.

        Raises:
            RuntimeError: the work failed; the traceback is its message.
        """
        kind, message = self._receiver.recv()
        while kind == "told":
            told(message)
            kind, message = self._receiver.recv()
        os.waitpid(self._pid, 0)
        if kind == "failed":
            raise RuntimeError(message)
        return message


def hush() -> None:
    """Let nothing more of this process be heard."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
