"""Wakes an I/O loop from signal handlers and other threads."""

from __future__ import annotations

import contextlib
import os


class Wake:
    """A pipe that becomes readable."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._writer, False)

    def set(self) -> None:
        """Make it readable."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def clear(self) -> None:
        """Make it unreadable again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.fd)
        os.close(self._writer)
