# ruff: noqa: N801, N802, N818  names are those of the module
"""NVIDIA's devices, by a module that is shaped like ``pynvml``; and the real one, where it is installed."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_worker.guard.sources.nvidia import Devices, find_devices, open_devices

GIB = 1 << 30
UUIDS = ("GPU-1a2b3c4d-0000-0000-0000-000000000000", "GPU-1a2b9999-0000-0000-0000-000000000000", "GPU-ffff0000-0")
MIG = "MIG-5555-0"


class Nvml:
    """What the guard calls of ``pynvml``, with three devices of 80, 80 and 24 GiB."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_DriverNotLoaded(NVMLError):
        pass

    def __init__(self) -> None:
        gib = {0: (20, 80), 1: (60, 80), 2: (12, 24), MIG: (5, 10)}
        self.memory: dict[Any, Any] = {
            handle: SimpleNamespace(total=total * GIB, used=used * GIB, free=(total - used) * GIB)
            for handle, (used, total) in gib.items()
        }
        self.running: dict[Any, Any] = {
            0: [self.process(10, 4 * GIB), self.process(11, GIB)],
            1: [self.process(10, 2 * GIB), self.process(12, None)],
        }
        self.loaded = True

    @staticmethod
    def process(pid: int, used: int | None) -> SimpleNamespace:
        return SimpleNamespace(pid=pid, usedGpuMemory=used, gpuInstanceId=0xFFFFFFFF, computeInstanceId=0xFFFFFFFF)

    def nvmlInit(self) -> None:
        if not self.loaded:
            raise self.NVMLError_DriverNotLoaded("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        assert uuid == MIG
        return MIG

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return UUIDS[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return self.answer(self.memory[handle])

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> Any:
        return self.answer(self.running.get(handle, []))

    def answer(self, value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value


def opened(nvml: Nvml, visible: str | None = None) -> Devices:
    devices = open_devices(nvml, visible)
    assert devices is not None
    return devices


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (60, 80)),
        ("0", (20, 80)),
        ("2,0", (12, 24)),
        (" 0 , 2 ", (12, 24)),
        ("GPU-1a2b9", (60, 80)),
        ("GPU-1a2b", (20, 80)),
        (MIG, (5, 10)),
        ("0,-1,1", (20, 80)),
        ("0,7,1", (20, 80)),
        ("0,x,1", (20, 80)),
        ("0,GPU-none,1", (20, 80)),
    ],
)
def test_the_fullest_of_the_visible_devices(visible: str | None, expected: tuple[int, int]) -> None:
    used, total = expected
    assert Limit("device", used * GIB, total * GIB) == opened(Nvml(), visible).fullest()


@pytest.mark.parametrize("visible", ["", "-1", "none"])
def test_without_a_visible_device_there_is_no_source(visible: str) -> None:
    assert open_devices(Nvml(), visible) is None


def test_without_a_driver_there_is_no_source() -> None:
    nvml = Nvml()
    nvml.loaded = False
    assert open_devices(nvml, None) is None


def test_bytes_of_a_process_are_those_on_all_devices() -> None:
    assert {10: 6 * GIB, 11: GIB, 12: 0} == opened(Nvml()).by_pid()


def test_a_device_that_shares_the_memory_of_the_machine_sets_no_limit() -> None:
    nvml = Nvml()
    nvml.memory[1] = nvml.running[1] = nvml.NVMLError_NotSupported("Not Supported")
    assert Limit("device", 12 * GIB, 24 * GIB) == opened(nvml, "1,2").fullest()
    assert opened(nvml, "1").fullest() is None
    assert opened(nvml, "1").by_pid() == {}


def test_a_device_that_is_lost_is_an_error() -> None:
    nvml = Nvml()
    nvml.memory[0] = nvml.running[0] = nvml.NVMLError("GPU is lost")
    with pytest.raises(OSError, match="memory of a device: GPU is lost"):
        opened(nvml).fullest()
    with pytest.raises(OSError, match="processes of a device: GPU is lost"):
        opened(nvml).by_pid()


def test_the_module_has_what_the_stub_has() -> None:
    pynvml = importlib.import_module(pytest.importorskip("pynvml").__name__)
    assert [name for name in dir(Nvml) if name.startswith("nvml") and not hasattr(pynvml, name)] == []
    assert issubclass(pynvml.NVMLError_NotSupported, pynvml.NVMLError)
    assert {"total", "used"} <= {name for name, _ in pynvml.c_nvmlMemory_t._fields_}
    assert {"pid", "usedGpuMemory"} <= {name for name, _ in pynvml.c_nvmlProcessInfo_v3_t._fields_}


def test_looking_for_devices_is_no_error_wherever_it_is_done() -> None:
    devices = find_devices()
    assert devices is None or devices.fullest() is None or devices.fullest().source == "device"
