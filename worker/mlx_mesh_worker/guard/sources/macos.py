"""What macOS says of memory: its pressure level, compressor and swap, and the physical footprint of a process.

Layouts and names are those of Apple's headers (xnu: ``bsd/sys/sysctl.h``, ``bsd/sys/resource.h``, ``libproc.h``):

- ``kern.memorystatus_vm_pressure_level`` is 1, 2 or 4, the levels of ``DISPATCH_SOURCE_TYPE_MEMORYPRESSURE``.
- ``vm.compressor_bytes_used`` is what compressed pages take of the memory. Those that were swapped out are taken off
  it, so it may be added to swap. The same figure of ``host_statistics64`` is in pages, and wants a Mach port.
- ``ri_phys_footprint`` is what Activity Monitor calls memory, and what the kernel judges a process by: with memory of
  the GPU and compressed pages, without files that are only mapped. Resident size is wrong by gigabytes in both.

This imports on every system; ``library()`` works on macOS only.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

import psutil

RUSAGE_INFO_V0 = 0
LEVELS = (1, 2, 4)


class SwapUsage(ctypes.Structure):
    """``struct xsw_usage``."""

    _fields_ = (
        ("xsu_total", ctypes.c_uint64),
        ("xsu_avail", ctypes.c_uint64),
        ("xsu_used", ctypes.c_uint64),
        ("xsu_pagesize", ctypes.c_uint32),
        ("xsu_encrypted", ctypes.c_int32),
    )


class ResourceUsage(ctypes.Structure):
    """``struct rusage_info_v0``, since macOS 10.9."""

    _fields_ = (
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
        ("ri_proc_start_abstime", ctypes.c_uint64),
        ("ri_proc_exit_abstime", ctypes.c_uint64),
    )


def library() -> Any:
    """Return the system's library, which has ``sysctlbyname`` and ``proc_pid_rusage``.

    Raises:
        OSError: this is not macOS.
    """
    found = ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True)
    size = ctypes.POINTER(ctypes.c_size_t)
    found.sysctlbyname.argtypes = (ctypes.c_char_p, ctypes.c_void_p, size, ctypes.c_void_p, ctypes.c_size_t)
    found.proc_pid_rusage.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    return found


class MacOS:
    """Asks the kernel.

    Args:
        system: what ``library()`` returns, or the like of it.
        process: psutil's class of processes; a version that tells footprints is asked for them.
    """

    def __init__(self, system: Any, process: Any = psutil.Process) -> None:
        self._system = system
        self._process = process if hasattr(process, "memory_extras") else None  # psutil 8, by the same system call

    def level(self) -> int:
        """Return the level of memory pressure: 1 normal, 2 warning, 4 critical.

        Raises:
            OSError: the kernel does not tell.
            ValueError: it is none of these.
        """
        level = ctypes.c_int32()
        self._sysctl("kern.memorystatus_vm_pressure_level", level)
        if level.value not in LEVELS:
            raise ValueError(f"a memory pressure level of {level.value}")
        return level.value

    def swap_used(self) -> int:
        """Return the bytes of swap in use and those that compressed pages take of the memory.

        Raises:
            OSError: the kernel does not tell.
            ValueError: in another layout than is documented.
        """
        swap, compressed = SwapUsage(), ctypes.c_uint64()
        self._sysctl("vm.swapusage", swap)
        self._sysctl("vm.compressor_bytes_used", compressed)
        return int(swap.xsu_used) + compressed.value

    def footprint(self, pid: int) -> int | None:
        """Return the physical footprint of a process in bytes; None if it is gone.

        Raises:
            OSError: it belongs to somebody else.
            psutil.Error: the same, as psutil says it.
        """
        if self._process is not None:
            try:
                return int(self._process(pid).memory_extras().phys_footprint)
            except psutil.NoSuchProcess:  # a zombie too
                return None
        usage = ResourceUsage()
        if self._system.proc_pid_rusage(pid, RUSAGE_INFO_V0, ctypes.byref(usage)) == 0:
            return int(usage.ri_phys_footprint)
        error = ctypes.get_errno()
        if error == errno.ESRCH:
            return None
        raise OSError(error, os.strerror(error), f"proc_pid_rusage of {pid}")

    def _sysctl(self, name: str, value: Any) -> None:
        """Read a value into ``value``, which has the size that is documented."""
        size = ctypes.c_size_t(ctypes.sizeof(value))
        if self._system.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), name)
        if size.value != ctypes.sizeof(value):
            raise ValueError(f"{name} has {size.value} bytes, not {ctypes.sizeof(value)}")
