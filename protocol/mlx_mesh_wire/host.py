"""Which machine this is and when a process started, so that a pid can be told from its successor's."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Final

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Why a file that is there cannot be read at the moment: this process, or the machine, has no more of something.

Any peer can bring it about by connecting often enough, so it must not be taken for what the file says.
"""


def host_name() -> str:
    """Return the host's name, for people."""
    return socket.gethostname()[:64]


def machine_id() -> str:
    """Return a string equal in two processes only if a pid means the same process to both; may be empty.

    On Linux that is the boot id and the pid namespace, since containers share a boot id. On macOS it is the
    host's name: there are no pid namespaces.
    """
    if sys.platform == "linux":
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return host_name()


def process_start(pid: int) -> int:
    """Return when the process started, as a number that its successor under the same pid will not have; 0 if unknown.

    On Linux: field 22 of ``/proc/PID/stat`` (clock ticks since boot, proc_pid_stat(5)). Elsewhere: psutil's
    ``create_time`` in milliseconds.
    """
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0
        return int(stat.rpartition(")")[2].split()[19])
    try:
        import psutil

        return int(psutil.Process(pid).create_time() * 1000)
    except Exception:  # noqa: BLE001  no psutil, or the process is gone: either way it is unknown
        return 0


def resident_bytes(pid: int) -> int | None:
    """Return the resident set of a process in bytes; None if it is gone. A zombie is gone: it holds nothing.

    On Linux from ``/proc/PID/statm`` (proc_pid_statm(5)), elsewhere from psutil.

    Raises:
        ImportError: psutil is needed and not installed.
        OSError: it cannot be told.
        ValueError: ``/proc/PID/statm`` is not as documented.
        psutil.Error: it cannot be told.
    """
    if sys.platform != "linux":
        import psutil

        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return None
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(fields) < 2:  # noqa: PLR2004  the size, and what of it is resident
        raise ValueError(f"/proc/{pid}/statm is {fields}")
    return int(fields[1]) * PAGE_BYTES or None


def own_identity() -> tuple[str, str, int, int]:
    """Return ``(host, machine, pid, pid_start)`` of this process, as LOADING and READY tell them."""
    pid = os.getpid()
    return host_name(), machine_id(), pid, process_start(pid)
