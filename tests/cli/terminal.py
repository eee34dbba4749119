"""A program at a terminal of its own, where Ctrl-C is what a terminal makes of it."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import termios
import time
from typing import TYPE_CHECKING

from cli_shell import BIN, PATIENCE_S

if TYPE_CHECKING:
    from cli_shell import Shell

CTRL_C = "\x03"
CTRL_D = "\x04"
AGAIN_S = 10.0


class Terminal:
    """Starts ``mlx-mesh`` with a pseudo-terminal as its controlling one; close it."""

    def __init__(self, shell: Shell, *args: str) -> None:
        self._master, slave = os.openpty()
        self._shown = b""
        self.process = subprocess.Popen(
            [str(BIN / "mlx-mesh"), *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**shell.env, "TERM": "dumb"},
            cwd=shell.cwd,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  no threads here
        )
        os.close(slave)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def interrupt(self, text: str) -> str:
        """Press Ctrl-C at a prompt until this text is shown.

        While Python shows a key that was typed, which takes long on a busy machine, it notes a signal and heeds it with
        the next key only.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.type(CTRL_C)
            try:
                return self.until(text, patience_s=AGAIN_S)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def until(self, text: str, more: int = 0, patience_s: float = PATIENCE_S) -> str:
        """Return what was shown since the last call up to this text, and so many bytes behind it."""
        deadline = time.monotonic() + patience_s
        while True:
            end = self._shown.find(text.encode()) + len(text.encode()) + more
            if text.encode() in self._shown and len(self._shown) >= end:
                break
            left = deadline - time.monotonic()
            assert left > 0, f"waited in vain for {text!r}; there is {self._shown.decode(errors='replace')!r}"
            if select.select([self._master], [], [], left)[0]:
                self._shown += os.read(self._master, 65536)
        found, self._shown = self._shown[:end], self._shown[end:]
        return found.decode(errors="replace")

    def close(self) -> None:
        """End the program if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
