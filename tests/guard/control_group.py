"""A real control group with a limit, where this machine lets us make one."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mlx_mesh_worker.guard.sources.linux import V1, V2, Version

LEFT_WITHIN_S = 30.0
"""How long the processes in it may take to be gone before it is removed."""


def real_groups() -> Iterator[tuple[Version, Path]]:
    """Yield where a group can be made: version 1 first, since that is where memory is counted if there are both."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        folder, _, system = line.split(" ")[4], *line.partition(" - ")[1:]
        if system.startswith("cgroup ") and "memory" in system.split(" ")[2].split(","):
            yield V1, Path(folder)
    for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        control = folder / "cgroup.subtree_control"
        if control.exists() and "memory" in control.read_text(encoding="ascii").split():
            yield V2, folder


@contextlib.contextmanager
def limited_group(size: int) -> Iterator[Path | None]:
    """Make a control group that may take so many bytes, as only the owner of the machine can; None where nobody can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        yield None
        return
    for version, folder in real_groups():
        made = folder / f"mlx-mesh-test-{os.getpid()}"
        try:
            made.mkdir()
            (made / version.limits[0]).write_text(str(size), encoding="ascii")
        except OSError:
            continue
        try:
            yield made
        finally:
            _remove(made)
        return
    yield None


def _remove(group: Path) -> None:
    deadline = time.monotonic() + LEFT_WITHIN_S
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    group.rmdir()
