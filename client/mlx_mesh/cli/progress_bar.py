"""A progress bar for a terminal, and a line now and then for a log file; both on stderr."""

from __future__ import annotations

import shutil
import sys
import time

from mlx_mesh.cli.table import duration

TERMINAL_EVERY_S = 0.1
LOG_EVERY_S = 10.0


class ProgressBar:
    """Shows how many of ``total`` units are done, how fast, and how long it will take; a context manager.

    Args:
        label: what is going on.
        unit: what is counted, in the plural.
        total: how many there are; 0 if unknown.
        done: how many are done already, by an earlier run.
    """

    def __init__(self, label: str, unit: str, total: int, done: int = 0) -> None:
        self._label = label
        self._unit = unit
        self._total = total
        self._first = done
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next = self._started + (0 if self._terminal else LOG_EVERY_S)

    def __enter__(self) -> ProgressBar:
        if self._terminal:
            self.show(self._first)
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, done: int) -> None:
        """Draw, unless it was drawn a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S)
        line = self.line(done, now - self._started, shutil.get_terminal_size().columns)
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else line + "\n")
        sys.stderr.flush()

    def line(self, done: int, elapsed: float, columns: int) -> str:
        """Return the bar as text of less than that many columns."""
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        figures = f"{done:,} {self._unit}, {rate:,.0f}/s"
        if self._total:
            left = f", {duration((self._total - done) / rate)} left" if rate else ""
            figures = f"{done:,} of {self._total:,} {self._unit}, {rate:,.0f}/s{left}"
        width = min(30, columns - len(figures) - len(self._label) - 5)
        if not self._total or width < 5:  # noqa: PLR2004
            return f"{self._label} {figures}"[: columns - 1]
        full = min(width, width * done // self._total)
        return f"{self._label} [{'#' * full}{'.' * (width - full)}] {figures}"
