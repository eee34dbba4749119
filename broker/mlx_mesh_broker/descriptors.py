"""How many descriptors the broker may have: each connection needs one, and so does each worker that is watched."""

from __future__ import annotations

import resource

WANTED = 65_536
"""As many clients and workers as may be connected, and connections that have said nothing yet."""

MACOS_MAX = 10_240
"""OPEN_MAX: macOS calls the hard limit unlimited and refuses more than this."""


def raise_limit() -> int:
    """Raise the limit of open descriptors as far as this process may; return what it is then.

    Where none is left, libzmq 4.3.5 ends the process as soon as somebody connects to an ipc socket (it asserts that
    accept() fails for other reasons only). The usual limit of 1024 is there for programs that call select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (WANTED, MACOS_MAX):
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and most > soft:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            except (ValueError, OSError):
                continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
