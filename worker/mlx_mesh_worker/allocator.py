"""The C library's allocator, which keeps what was freed until it is asked to give it back."""

from __future__ import annotations

import sys


def give_back() -> bool:
    """Return freed memory to the system, where the C library can (glibc's malloc_trim); whether it did.

    Takes milliseconds for each GiB on the heap; other threads that allocate wait meanwhile.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # Late: memory is short seldom, and a worker is to start fast.

    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):  # musl has none
        return False
