"""What NVIDIA's driver says of its devices, by nvidia-ml-py (module ``pynvml``, BSD licence), where both are there."""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import Any

from mlx_mesh_wire.guard_report import Limit

LIBRARY = "libnvidia-ml.so.1"


def find_devices() -> Devices | None:
    """Return the devices of this machine; None without a driver, nvidia-ml-py or a device.

    The driver's library is tried first: ``pynvml`` takes 5 MB, which a machine without a GPU need not spend.
    """
    try:
        ctypes.CDLL(LIBRARY)
        nvml = importlib.import_module("pynvml")
    except (OSError, ImportError):
        return None
    return open_devices(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))


def open_devices(nvml: Any, visible: str | None) -> Devices | None:
    """Return the devices that ``nvml``, the module, has and that are ``visible``; None if there are none."""
    try:
        nvml.nvmlInit()
        handles = visible_handles(nvml, visible)
    except nvml.NVMLError:
        return None
    return Devices(nvml, handles) if handles else None


def visible_handles(nvml: Any, visible: str | None) -> list[Any]:
    """Return the handles of the devices that ``CUDA_VISIBLE_DEVICES`` names; of all if it is not set.

    As CUDA does, it takes numbers and the beginnings of UUIDs, and nothing behind the first that names no device.
    Numbers are those of the driver (``CUDA_DEVICE_ORDER=PCI_BUS_ID``); they are CUDA's own where all devices are of
    one kind.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if visible is None:
        return handles
    uuids = [nvml.nvmlDeviceGetUUID(handle) for handle in handles]
    found: list[Any] = []
    for name in (part.strip() for part in visible.split(",")):
        if name.startswith("MIG-"):
            found.append(nvml.nvmlDeviceGetHandleByUUID(name))
        elif name.isdecimal() and int(name) < len(handles):
            found.append(handles[int(name)])
        elif name.startswith("GPU-") and (like := [i for i, uuid in enumerate(uuids) if uuid.startswith(name)]):
            found.append(handles[like[0]])
        else:
            break
    return found


class Devices:
    """Asks the driver.

    Args:
        nvml: the module.
        handles: of the devices.
    """

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    def fullest(self) -> Limit | None:
        """Return what is taken of the device that has the least to spare, by anybody.

        None if no device has memory of its own: those that share the machine's are bounded with it.

        Raises:
            OSError: the driver does not answer.
        """
        limits: list[Limit] = []
        for handle in self._handles:
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError_NotSupported:
                continue
            except self._nvml.NVMLError as error:
                raise OSError(f"memory of a device: {error}") from error
            limits.append(Limit("device", int(memory.used), max(1, int(memory.total))))
        return max(limits, key=lambda limit: limit.used / limit.limit, default=None)

    def by_pid(self) -> dict[int, int]:
        """Return the bytes that each process takes of the devices.

        In a container the driver tells the pids of the host, and none of ours is among them.

        Raises:
            OSError: the driver does not answer.
        """
        taken: dict[int, int] = {}
        for handle in self._handles:
            try:
                processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except self._nvml.NVMLError_NotSupported:
                continue
            except self._nvml.NVMLError as error:
                raise OSError(f"processes of a device: {error}") from error
            for process in processes:
                # None where the driver cannot tell the share of one process.
                taken[process.pid] = taken.get(process.pid, 0) + int(process.usedGpuMemory or 0)
        return taken
