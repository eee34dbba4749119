"""Which endpoints a client or a worker can connect to, and whether anybody listens there.

libzmq takes more endpoints than those, and then never connects.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Final

from mlx_mesh_wire.paths import IPC_PATH_MAX_BYTES

IPC: Final = "ipc://"
PORT_MAX: Final = 65_535
ALLOWED: Final = "ipc://PATH or tcp://HOST:PORT"

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]")
"""A name, an IPv4 address, or an IPv6 address in brackets, with a zone if need be."""

_PORT = re.compile(r"[0-9]{1,9}")
"""Short enough for int, which refuses thousands of digits by an error of its own."""


def endpoint_fault(endpoint: object) -> str:
    """Return why nothing can connect to an endpoint, for people; empty if something can."""
    scheme, separator, rest = endpoint.partition("://") if isinstance(endpoint, str) else ("", "", "")
    if not separator or scheme not in ("ipc", "tcp") or not rest or "\0" in rest:
        return f"{endpoint!r} is no endpoint; allowed: {ALLOWED}"
    if scheme == "ipc":
        try:
            size = len(os.fsencode(rest))
        except UnicodeEncodeError:
            return f"{endpoint!r} has a path that no file can have; allowed: {ALLOWED}"
        if size > IPC_PATH_MAX_BYTES:
            return f"{endpoint!r} has a path of {size} bytes; allowed: at most {IPC_PATH_MAX_BYTES}"
        return ""
    host, _, port = rest.rpartition(":")
    if not (_PORT.fullmatch(port) and 1 <= int(port) <= PORT_MAX):
        return f"{endpoint!r} has no port from 1 to {PORT_MAX}; allowed: {ALLOWED}"
    if not _HOST.fullmatch(host):
        return f"{endpoint!r} has no host; allowed: {ALLOWED}"
    return ""


def listening(endpoint: str) -> bool:
    """Return whether somebody listens on an ipc endpoint; other endpoints count as listening."""
    if not endpoint.startswith(IPC):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(endpoint.removeprefix(IPC))
        except OSError:
            return False
    return True
