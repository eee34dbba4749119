"""Lines that say what is measured at the moment."""

from __future__ import annotations

import sys
import time

_STARTED = time.monotonic()


def progress(text: str) -> None:
    """Say what happens, with the seconds since the program started, on standard error."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)
