"""macOS by its documented structures, written as bytes by a library that is called as the system's is."""

from __future__ import annotations

import ctypes
import errno
import struct
import sys
from typing import Any, NamedTuple

import psutil
import pytest

from mlx_mesh_worker.guard.sources.macos import MacOS, ResourceUsage, SwapUsage, library

GIB = 1 << 30
ME, GONE, OTHERS = 501, 502, 1

SWAP = struct.pack("<QQQIi", 3 * GIB, GIB, 2 * GIB, 16384, 1)
"""``sysctl vm.swapusage``: total = 3072.00M  used = 2048.00M  free = 1024.00M  (encrypted)"""

USAGE = bytes(range(16)) + struct.pack("<10Q", 11, 12, 13, 14, 15, 16, 6 * GIB, 9 * GIB, 17, 0)
"""``struct rusage_info_v0`` of a process that holds 9 GiB, 3 of them on the GPU or compressed."""

SYSCTLBYNAME = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.c_void_p,
    ctypes.c_size_t,
    use_errno=True,
)
PROC_PID_RUSAGE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, use_errno=True)


class System:
    """Two functions with the system's signatures, called through C."""

    def __init__(self, **values: bytes) -> None:
        self.values = {
            b"kern.memorystatus_vm_pressure_level": struct.pack("<i", 1),
            b"vm.swapusage": SWAP,
            b"vm.compressor_bytes_used": struct.pack("<Q", 5 * GIB),
        } | {name.replace("__", ".").encode(): value for name, value in values.items()}
        self.sysctlbyname = SYSCTLBYNAME(self._sysctlbyname)
        self.proc_pid_rusage = PROC_PID_RUSAGE(self._proc_pid_rusage)

    def _sysctlbyname(self, name: bytes, old: int, size: Any, new: Any, new_size: int) -> int:
        value = self.values.get(name)
        if value is None or new or new_size or size[0] < len(value):
            ctypes.set_errno(errno.ENOENT if value is None else errno.ENOMEM)
            return -1
        ctypes.memmove(old, value, len(value))
        size[0] = len(value)
        return 0

    def _proc_pid_rusage(self, pid: int, flavor: int, buffer: int) -> int:
        if pid != ME or flavor != 0:
            ctypes.set_errno({GONE: errno.ESRCH, OTHERS: errno.EPERM}.get(pid, errno.EINVAL))
            return -1
        ctypes.memmove(buffer, USAGE, len(USAGE))
        return 0


def test_structures_have_the_size_of_the_headers() -> None:
    assert (32, 96) == (ctypes.sizeof(SwapUsage), ctypes.sizeof(ResourceUsage))
    assert (16, 72) == (SwapUsage.xsu_used.offset, ResourceUsage.ri_phys_footprint.offset)


@pytest.mark.parametrize("level", [1, 2, 4])
def test_the_pressure_level(level: int) -> None:
    assert level == MacOS(System(kern__memorystatus_vm_pressure_level=struct.pack("<i", level))).level()


def test_a_level_that_is_not_documented_is_an_error() -> None:
    with pytest.raises(ValueError, match="level of 3"):
        MacOS(System(kern__memorystatus_vm_pressure_level=struct.pack("<i", 3))).level()


def test_swap_and_compressor_are_added() -> None:
    assert 7 * GIB == MacOS(System()).swap_used()


def test_a_value_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"vm\.swapusage has 24 bytes, not 32"):
        MacOS(System(vm__swapusage=SWAP[:24])).swap_used()


def test_a_value_that_is_larger_than_documented_is_an_error() -> None:
    with pytest.raises(OSError, match=r"vm\.swapusage") as caught:
        MacOS(System(vm__swapusage=SWAP + b"more")).swap_used()
    assert errno.ENOMEM == caught.value.errno


def test_a_kernel_without_the_name_is_an_error_that_names_it() -> None:
    system = System()
    del system.values[b"kern.memorystatus_vm_pressure_level"]
    with pytest.raises(FileNotFoundError, match="memorystatus_vm_pressure_level"):
        MacOS(system).level()


class OldPsutil:
    """psutil 6 and 7 have no footprint."""


def test_the_footprint_is_what_the_kernel_judges_by_and_not_the_resident_size() -> None:
    assert 9 * GIB == MacOS(System(), OldPsutil).footprint(ME)


def test_a_process_that_is_gone_has_no_footprint() -> None:
    assert MacOS(System(), OldPsutil).footprint(GONE) is None


def test_a_process_of_somebody_else_is_an_error() -> None:
    with pytest.raises(PermissionError, match="proc_pid_rusage of 1"):
        MacOS(System(), OldPsutil).footprint(OTHERS)


class Extras(NamedTuple):
    phys_footprint: int


class NewPsutil:
    """psutil 8 has ``memory_extras``."""

    def __init__(self, pid: int) -> None:
        if pid == GONE:
            raise psutil.NoSuchProcess(pid)

    def memory_extras(self) -> Extras:
        return Extras(4 * GIB)


def test_a_psutil_that_tells_footprints_is_asked() -> None:
    macos = MacOS(System(), NewPsutil)
    assert 4 * GIB == macos.footprint(ME)
    assert macos.footprint(GONE) is None


@pytest.mark.skipif(sys.platform != "darwin", reason="the real library")
def test_this_mac_answers() -> None:
    macos = MacOS(library())
    assert macos.level() in (1, 2, 4)
    assert macos.swap_used() >= 0
    assert (macos.footprint(psutil.Process().pid) or 0) > 1 << 20


@pytest.mark.skipif(sys.platform == "darwin", reason="it is there")
def test_elsewhere_the_library_is_missed_in_the_usual_way() -> None:
    with pytest.raises(OSError, match="libSystem"):
        library()
