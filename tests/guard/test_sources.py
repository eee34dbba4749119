"""All sources together: on this machine, with processes that take memory, and with sources that fail."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_wire.logs import logger
from mlx_mesh_worker.guard.samples import Signals
from mlx_mesh_worker.guard.sources import Sources, Systems, machine, this_machine, total_memory
from mlx_mesh_worker.guard.sources.linux import Linux
from mlx_mesh_worker.guard.sources.macos import MacOS
from mlx_mesh_worker.guard.sources.nvidia import open_devices
from mlx_mesh_worker.guard.sources.processes import footprint
from tests.guard.test_sources_linux import MOUNTS_V2, group, write
from tests.guard.test_sources_macos import ME, OTHERS, OldPsutil, System
from tests.guard.test_sources_nvidia import Nvml
from tests.live import until

GIB = 1 << 30
MIB = 1 << 20
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PSI = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n"


@pytest.fixture
def logged() -> Iterator[list[tuple[str, Any]]]:
    """Return events that are logged and their fields."""
    lines: list[tuple[str, Any]] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.getMessage(), vars(record)["fields"]))

    keeper, level = Keeper(), logger.level
    logger.addHandler(keeper)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(keeper)
    logger.setLevel(level)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {"proc/self/mountinfo": MOUNTS_V2, "proc/self/cgroup": "0::/\n", "proc/pressure/memory": PSI}
    group(write(tmp_path, files), "", current=90 * MIB, max=str(100 * MIB), high="max")
    return tmp_path


def meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


@ON_LINUX
def test_the_machine_is_what_the_kernel_says() -> None:
    limit, kernel = machine.ram(GIB), meminfo()
    assert kernel["MemTotal"] == total_memory()
    assert ("ram", kernel["MemTotal"] - GIB) == (limit.source, limit.limit)

    def off(used: int, total: str, free: str) -> int:
        kernel = meminfo()
        return abs(used - (kernel[total] - kernel[free]))

    # What others do between the two readings may be more than that.
    until(lambda: off(machine.ram(GIB).used, "MemTotal", "MemAvailable") < 256 * MIB, "the same memory")
    until(lambda: off(machine.swap_used(), "SwapTotal", "SwapFree") < 256 * MIB, "the same swap")


def test_a_reserve_above_what_there_is_leaves_a_limit_that_can_be_divided_by() -> None:
    assert 1 == machine.ram(total_memory() + GIB).limit


TAKES = "import sys; held = []\nfor line in sys.stdin: held.append(b'x' * int(line)); print(flush=True)"


@pytest.mark.slow
def test_what_a_process_takes_is_seen_until_it_is_gone() -> None:
    sources = Sources(0, 8 * GIB)
    with subprocess.Popen([sys.executable, "-c", TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def after(size: int) -> int:
            child.stdin.write(b"%d\n" % size)
            child.stdin.flush()
            child.stdout.readline()
            reading = sources.read([child.pid, os.getpid()])
            assert {child.pid, os.getpid()} == reading.footprints.keys()
            (configured,) = [limit for limit in reading.limits if limit.source == "configured"]
            assert Limit("configured", sum(reading.footprints.values()), 8 * GIB) == configured
            return reading.footprints[child.pid]

        before = after(1)
        assert 64 * MIB <= after(64 * MIB) - before < 96 * MIB
        child.kill()
        until(lambda: sources.read([child.pid]).footprints == {}, "a zombie that holds nothing")
    assert sources.read([child.pid]).footprints == {}
    assert sources.errors == {}


@ON_LINUX
def test_a_footprint_is_the_rss_of_beats_and_what_is_on_devices() -> None:
    from mlx_mesh_worker.vitals import resident_bytes

    own = footprint(os.getpid(), None, {os.getpid(): GIB})
    assert own is not None
    assert abs(own - GIB - resident_bytes()) < 16 * MIB


def test_everything_that_a_machine_has_is_read(root: Path) -> None:
    nvml = Nvml()
    nvml.running[2] = [nvml.process(os.getpid(), 3 * GIB)]
    reading = Sources(GIB, 4 * GIB, Systems(Linux(root), None, open_devices(nvml, None))).read([os.getpid()])
    assert ["ram", "configured", "cgroup", "device"] == [limit.source for limit in reading.limits]
    assert (1.5, 0.5) == reading.signals[:2]
    assert 3 * GIB < reading.footprints[os.getpid()] < 4 * GIB


def test_a_mac_has_a_level_and_footprints_of_its_own() -> None:
    sources = Sources(GIB, 0, Systems(None, MacOS(System(), OldPsutil), None))
    reading = sources.read([ME])
    assert Signals(None, None, swap_used=7 * GIB, level=1) == reading.signals
    assert {ME: 9 * GIB} == reading.footprints
    assert ["ram"] == [limit.source for limit in reading.limits]
    assert "swap_used, level" == sources.describe()["signals"]


def test_a_machine_with_nothing_but_psutil_has_no_errors(logged: list[tuple[str, Any]]) -> None:
    sources = Sources(GIB, systems=Systems(None, None, None))
    reading = sources.read([])
    assert (["ram"], None) == ([limit.source for limit in reading.limits], reading.signals.psi_some)
    assert ({}, []) == (sources.errors, logged)


def test_a_failure_is_logged_once_counted_and_survived(root: Path, logged: list[tuple[str, Any]]) -> None:
    sources = Sources(GIB, systems=Systems(Linux(root), None, None))
    write(root, {"proc/pressure/memory": "garbage\n"})
    for _ in range(3):
        reading = sources.read([])
        assert ["ram", "cgroup"] == [limit.source for limit in reading.limits]
        assert reading.signals.psi_some is None
    assert {"psi": 3} == sources.errors
    ((event, fields),) = logged
    assert ("source_failed", "psi") == (event, fields["source"])
    assert "avg10" in fields["reason"]


def test_a_failure_of_another_kind_and_the_end_of_it_are_logged(root: Path, logged: list[tuple[str, Any]]) -> None:
    sources = Sources(GIB, systems=Systems(Linux(root), None, None))
    current = root / "sys/fs/cgroup/memory.current"
    for step in ("garbage", None, "garbage", "1024", "1024", "garbage"):
        if step is None:
            current.unlink()
        else:
            current.write_text(step, encoding="ascii")
        sources.read([])
    said = [(event, fields.get("reason", "").partition(":")[0]) for event, fields in logged]
    assert [
        ("source_failed", "ValueError"),
        ("source_failed", "FileNotFoundError"),
        ("source_back", ""),
        ("source_failed", "ValueError"),
    ] == said
    assert {"cgroup": 4} == sources.errors


def test_devices_that_fail_hide_nothing_else(root: Path, logged: list[tuple[str, Any]]) -> None:
    nvml = Nvml()
    sources = Sources(GIB, systems=Systems(Linux(root), None, open_devices(nvml, None)))
    nvml.memory[0] = nvml.running[0] = nvml.NVMLError("GPU is lost")
    reading = sources.read([os.getpid()])
    assert ["ram", "cgroup"] == [limit.source for limit in reading.limits]
    assert os.getpid() in reading.footprints
    assert {"device": 1, "device_processes": 1} == sources.errors
    assert ["device_processes", "device"] == [fields["source"] for _, fields in logged]


def test_a_process_that_cannot_be_read_hides_no_other(logged: list[tuple[str, Any]]) -> None:
    sources = Sources(GIB, 10 * GIB, Systems(None, MacOS(System(), OldPsutil), None))
    for _ in range(2):
        assert {ME: 9 * GIB} == sources.read([OTHERS, ME]).footprints
    assert {"processes": 2} == sources.errors
    assert ["source_failed"] == [event for event, _ in logged]


def test_the_log_says_what_is_in_use(root: Path) -> None:
    said = Sources(total_memory() - 2 * GIB, 3 * GIB, Systems(Linux(root), None, None)).describe()
    assert {"limits": "ram 2.00 GiB, configured 3.00 GiB, cgroup 0.10 GiB"} == {"limits": said["limits"]}
    assert "psi_some, psi_full, swap_used" == said["signals"]


@pytest.mark.slow
def test_a_look_costs_next_to_nothing() -> None:
    """One per cent of a core at a look a second is 10 ms; it takes a quarter of a millisecond on a quiet machine."""
    sources = Sources(GIB, 8 * GIB, this_machine())
    begun = time.process_time()
    for _ in range(100):
        sources.read([os.getpid(), os.getppid()])
    assert time.process_time() - begun < 100 * 0.005


LIGHT = """
import sys
from mlx_mesh_worker.guard.sources import Sources
from mlx_mesh_worker.guard.trend import Trend
(footprint,) = Sources(0).read([__import__("os").getpid()]).footprints.values()
print(footprint, *(sys.modules.keys() & {"mlx", "numpy", "pandas", "zmq", "pynvml"}))
"""


@pytest.mark.slow
def test_the_sources_are_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, check=True)
    footprint_bytes, *heavy = done.stdout.split()
    assert int(footprint_bytes) < 30 * MIB
    assert heavy in ([], ["pynvml"])  # which a machine with a GPU needs
