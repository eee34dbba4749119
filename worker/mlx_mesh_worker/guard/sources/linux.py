"""What Linux says of memory: stalls of all tasks (PSI) and the limit of our own control group, version 2 or 1.

All paths are below ``root``, so that recorded trees can be read. Formats: the kernel's ``accounting/psi.rst``,
``admin-guide/cgroup-v2.rst`` and ``admin-guide/cgroup-v1/memory.rst``, and proc_pid_mountinfo(5), cgroups(7).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mlx_mesh_wire.guard_report import Limit

UNLIMITED = 1 << 62
"""Version 1 writes "no limit" as 2^63 less a page; nothing real is near it."""


class Version(NamedTuple):
    """The names of one version of control groups."""

    limits: tuple[str, ...]
    used: str
    droppable: str


V2 = Version(("memory.max", "memory.high"), "memory.current", "inactive_file")
V1 = Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


class Mount(NamedTuple):
    """Where the groups that account for memory are mounted; ``top`` is the group that stands at ``folder``."""

    version: Version
    folder: Path
    top: str


class Linux:
    """Reads the kernel's files.

    Args:
        root: where ``/proc`` and the mount points are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._pressure = root / "proc/pressure/memory"
        self._groups = root / "proc/self/cgroup"
        # Hosts of containers have hundreds of mounts: too many to read them each second, and they stay.
        self._mount = _memory_mount(root)

    def pressure(self) -> tuple[float, float] | None:
        """Return the percent of the last 10 s in which some tasks, and all of them, waited for memory.

        None where the kernel has no PSI, or was started without it: the file is missing then, or cannot be read.

        Raises:
            ValueError: the file is not as documented.
        """
        try:
            text = self._pressure.read_text(encoding="ascii")
        except OSError:
            return None
        lines = {line.partition(" ")[0]: line for line in text.splitlines()}
        return _average(lines.get("some", "")), _average(lines.get("full", ""))

    def cgroup(self) -> Limit | None:
        """Return the fullest of the limited groups that this process is in, from its own up to the root.

        A limit holds for all that is below it, so a group far up may be the one that is short of memory. None if no
        group has a limit.

        Raises:
            OSError: a file that belongs there cannot be read.
            ValueError: a file is not as documented.
        """
        if self._mount is None:
            return None
        found = [each for folder in self._ancestors(self._mount) if (each := _usage(folder, self._mount.version))]
        return max(found, key=lambda each: (each.used / each.limit, -each.limit), default=None)

    def _ancestors(self, mount: Mount) -> list[Path]:
        """Return the folders from our own group up. Read anew: a process can be moved to another group."""
        path = _own_group(self._groups.read_text(encoding="utf-8"), mount.version)
        # What stands at the mount point is not always the root: a container sees its own group there, and either the
        # host's path to it or, in a namespace of its own, "/". A path that leads out of what is mounted has dots.
        inside = path.removeprefix(mount.top) if mount.top != "/" else path
        parts = [part for part in inside.split("/") if part]
        if ".." in parts or (mount.top != "/" and not f"{path}/".startswith(f"{mount.top}/")):
            parts = []
        return [mount.folder.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _memory_mount(root: Path) -> Mount | None:
    """Return where version 1 accounts for memory, else where version 2 is mounted: never do both."""
    try:
        text = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    second = None
    for line in text.splitlines():
        place, _, system = line.partition(" - ")
        fields, (kind, _, options) = place.split(" "), (system.split(" ") + [""] * 3)[:3]
        if kind not in ("cgroup", "cgroup2") or len(fields) < 5:  # noqa: PLR2004  the fifth is the mount point
            continue
        top, folder = fields[3], root / fields[4].lstrip("/")
        if kind == "cgroup" and "memory" in options.split(","):
            return Mount(V1, folder, top)
        if kind == "cgroup2":
            second = second or Mount(V2, folder, top)
    return second


def _own_group(text: str, version: Version) -> str:
    """Return the path in the line ``number:controllers:path`` of our version; number 0 is version 2."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0") if version is V2 else ("memory" in controllers.split(",")):
            return path.removesuffix(" (deleted)")
    raise ValueError("/proc/self/cgroup has no line for the groups that account for memory")


def _usage(folder: Path, version: Version) -> Limit | None:
    """Return what a group takes of the lowest of its limits; None if it has none.

    What it takes is its working set as Kubernetes defines it: all that is charged to it, less the page cache on the
    inactive list. The kernel drops that first when the limit is reached, and nobody is stopped for it.
    """
    limits = [limit for name in version.limits if (limit := _limit(folder / name)) is not None]
    if not limits:
        return None
    charged = int((folder / version.used).read_text(encoding="ascii"))
    for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == version.droppable:
            return Limit("cgroup", max(0, charged - int(value)), max(1, min(limits)))
    raise ValueError(f"memory.stat has no {version.droppable}")


def _limit(file: Path) -> int | None:
    """Return the limit in a file; None if there is none, as in the root, which has no such file."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    limit = UNLIMITED if text == "max" else int(text)
    return limit if limit < UNLIMITED else None


def _average(line: str) -> float:
    """Return ``avg10`` of a line of PSI."""
    for field in line.split():
        name, _, value = field.partition("=")
        if name == "avg10":
            return float(value)
    raise ValueError("/proc/pressure/memory has no avg10")
