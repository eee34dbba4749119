"""PSI and control groups: recorded trees of the kernel's files, and a group that is real where one can be made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_worker.guard.sources.linux import Linux
from tests.guard.control_group import limited_group

MIB = 1 << 20
UNLIMITED_V1 = "9223372036854771712\n"

MOUNTS_V2 = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
28 23 0:24 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
36 27 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
"""
MOUNTS_V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
GROUPS_V1 = "9:name=systemd:/\n4:memory:{path}\n1:cpu,cpuacct:/\n0::/\n"
STAT_V2 = "anon 104857600\nfile 62914560\nkernel 8388608\ninactive_file {}\nactive_file 10485760\nslab 4194304\n"
STAT_V1 = "cache 1\nrss 2\ninactive_file 3\ntotal_cache 4\ntotal_inactive_file {}\ntotal_active_file 6\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root with the files that every case has."""
    return write(tmp_path, {"proc/self/mountinfo": MOUNTS_V2, "proc/self/cgroup": "0::/\n"})


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def group(root: Path, path: str, current: int, inactive: int = 0, **limits: str) -> None:
    """Write a group of version 2, with ``max`` and ``high`` as given."""
    files = {f"memory.{name}": f"{limit}\n" for name, limit in limits.items()}
    files |= {"memory.current": f"{current}\n", "memory.stat": STAT_V2.format(inactive)}
    write(root / "sys/fs/cgroup" / path, files)


def test_pressure_is_the_average_of_ten_seconds(root: Path) -> None:
    recorded = (
        "some avg10=12.40 avg60=3.05 avg300=0.71 total=7905359\nfull avg10=4.25 avg60=1.00 avg300=0.20 total=1399443\n"
    )
    write(root, {"proc/pressure/memory": recorded})
    assert (12.4, 4.25) == Linux(root).pressure()


def test_a_kernel_without_psi_says_nothing(root: Path) -> None:
    assert Linux(root).pressure() is None


def test_psi_that_cannot_be_read_says_nothing(root: Path) -> None:
    (root / "proc/pressure/memory").mkdir(parents=True)  # whatever is wrong: reading fails
    assert Linux(root).pressure() is None


@pytest.mark.parametrize("text", ["", "some avg10=1.00\n", "some avg10=x\nfull avg10=0.00\n", "some\nfull\n"])
def test_psi_in_another_form_is_an_error(root: Path, text: str) -> None:
    write(root, {"proc/pressure/memory": text})
    with pytest.raises(ValueError, match=r"avg10|could not convert"):
        Linux(root).pressure()


def test_the_limit_of_a_container_and_its_working_set(root: Path) -> None:
    group(root, "", current=300 * MIB, inactive=60 * MIB, max=str(1024 * MIB), high="max")
    assert Limit("cgroup", 240 * MIB, 1024 * MIB) == Linux(root).cgroup()


def test_the_lower_of_max_and_high_counts(root: Path) -> None:
    group(root, "", current=300 * MIB, max=str(1024 * MIB), high=str(900 * MIB))
    assert Limit("cgroup", 300 * MIB, 900 * MIB) == Linux(root).cgroup()


def test_a_group_without_a_limit_has_none(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/user.slice/session-1.scope\n"})
    group(root, "user.slice", current=300 * MIB, max="max", high="max")
    group(root, "user.slice/session-1.scope", current=200 * MIB, max="max", high="max")
    assert Linux(root).cgroup() is None


@pytest.mark.parametrize(("pod", "expected"), [(900, ("pod", 900, 1000)), (300, ("own", 200, 400))])
def test_the_fullest_of_all_groups_above_counts(root: Path, pod: int, expected: tuple[str, int, int]) -> None:
    """A neighbour in the pod may fill its limit while we are far from ours; usually ours is reached first."""
    write(root, {"proc/self/cgroup": "0::/kubepods.slice/pod7/own\n"})
    group(root, "kubepods.slice", current=950 * MIB, max=str(64_000 * MIB), high="max")
    group(root, "kubepods.slice/pod7", current=pod * MIB, max=str(1000 * MIB), high="max")
    group(root, "kubepods.slice/pod7/own", current=200 * MIB, max="max", high=str(400 * MIB))
    assert Limit("cgroup", expected[1] * MIB, expected[2] * MIB) == Linux(root).cgroup()


def test_groups_beside_ours_do_not_count(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/ours\n"})
    group(root, "ours", current=1 * MIB, max="max", high="max")
    group(root, "others", current=99 * MIB, max=str(100 * MIB), high="max")
    assert Linux(root).cgroup() is None


def test_a_process_that_is_moved_is_seen_in_its_new_group(root: Path) -> None:
    for name, limit in (("a", 100), ("b", 200)):
        group(root, name, current=10 * MIB, max=str(limit * MIB), high="max")
    write(root, {"proc/self/cgroup": "0::/a\n"})
    linux = Linux(root)
    assert Limit("cgroup", 10 * MIB, 100 * MIB) == linux.cgroup()
    write(root, {"proc/self/cgroup": "0::/b\n"})
    assert Limit("cgroup", 10 * MIB, 200 * MIB) == linux.cgroup()


def test_more_cache_than_is_charged_is_nothing_taken(root: Path) -> None:
    """The kernel counts both at different moments."""
    group(root, "", current=10 * MIB, inactive=11 * MIB, max=str(100 * MIB), high="max")
    assert Limit("cgroup", 0, 100 * MIB) == Linux(root).cgroup()


def test_without_proc_there_is_no_group(tmp_path: Path) -> None:
    assert Linux(tmp_path).cgroup() is None


@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/memory.max": "lots\n"},
        {"sys/fs/cgroup/memory.max": ""},
        {"sys/fs/cgroup/memory.current": "12 MiB\n"},
        {"sys/fs/cgroup/memory.stat": "anon 1\nfile 2\n"},
        {"sys/fs/cgroup/memory.stat": "inactive_file\n"},
        {"proc/self/cgroup": "garbage\n"},
        {"proc/self/cgroup": ""},
    ],
)
def test_garbage_is_an_error_and_not_a_limit(root: Path, files: dict[str, str]) -> None:
    group(root, "", current=10 * MIB, max=str(100 * MIB), high="max")
    write(root, files)
    with pytest.raises(ValueError, match=r"invalid literal|has no"):
        Linux(root).cgroup()


def test_a_file_that_is_missing_beside_a_limit_is_an_error(root: Path) -> None:
    group(root, "", current=10 * MIB, max=str(100 * MIB), high="max")
    (root / "sys/fs/cgroup/memory.current").unlink()
    with pytest.raises(FileNotFoundError):
        Linux(root).cgroup()


@pytest.mark.parametrize(
    ("top", "path", "folder", "others"),
    [
        ("/", "/jobs/ours", "jobs/ours", "jobs/other"),
        ("/docker/9f2", "/docker/9f2", "", "docker/9f2"),
        ("/docker/9f2", "/docker/9f2/ours", "ours", "docker/9f2/ours"),
        ("/docker/9f2", "/", "", "docker"),
        ("/docker/9f2", "/docker/9f2b/ours", "", "b/ours"),
        ("/", "/../elsewhere", "", "../elsewhere"),
    ],
    ids=["host", "container", "below a container", "namespace", "another of a like name", "outside of the namespace"],
)
def test_version_1_is_read_where_it_is_mounted(tmp_path: Path, top: str, path: str, folder: str, others: str) -> None:
    write(
        tmp_path,
        {"proc/self/mountinfo": MOUNTS_V1.format(top=top), "proc/self/cgroup": GROUPS_V1.format(path=path)},
    )
    memory = tmp_path / "sys/fs/cgroup/memory"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    write(memory, dict(zip(names, (UNLIMITED_V1, f"{500 * MIB}\n", STAT_V1.format(0)), strict=True)))
    limited = (f"{256 * MIB}\n", f"{80 * MIB}\n", STAT_V1.format(30 * MIB))
    write(memory / folder, dict(zip(names, limited, strict=True)))
    full = (f"{MIB}\n", f"{MIB}\n", STAT_V1.format(0))
    write(memory / others, dict(zip(names, full, strict=True)))
    assert Limit("cgroup", 50 * MIB, 256 * MIB) == Linux(tmp_path).cgroup()


def test_version_1_without_a_limit_has_none(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/mountinfo": MOUNTS_V1.format(top="/"), "proc/self/cgroup": GROUPS_V1.format(path="/")})
    unlimited = {"limit_in_bytes": UNLIMITED_V1, "usage_in_bytes": f"{MIB}\n", "stat": STAT_V1.format(0)}
    write(tmp_path / "sys/fs/cgroup/memory", {f"memory.{name}": text for name, text in unlimited.items()})
    assert Linux(tmp_path).cgroup() is None


CHILD = """
import os, sys
with open(sys.argv[1], "w") as procs: procs.write(str(os.getpid()))
held = b"x" * (64 << 20)
from mlx_mesh_worker.guard.sources.linux import Linux
print(*Linux().cgroup())
"""


@pytest.fixture
def real_group() -> Iterator[Path]:
    """Make a control group that is limited to 256 MiB, as only the owner of the machine can."""
    with limited_group(256 * MIB) as group:
        if group is None:
            pytest.skip("no control group can be made here")
        yield group


@pytest.mark.slow
def test_a_process_in_a_real_group_sees_its_limit_and_what_it_takes(real_group: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(real_group / "cgroup.procs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    source, used, limit = done.stdout.split()
    assert ("cgroup", 256 * MIB) == (source, int(limit))
    assert 64 * MIB <= int(used) < 128 * MIB
