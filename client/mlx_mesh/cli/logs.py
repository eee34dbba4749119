"""The log files of a mesh: their last lines, and new lines as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_wire.logs import read_tail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAIL_BYTES = 4096


def tail(path: Path, lines: int = 10) -> list[str]:
    """Return the last lines of a file; none if there is no such file."""
    return read_tail(path, TAIL_BYTES).splitlines()[-lines:]


class Follower:
    """Yields what is added to a file from now on, also after it was rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._place = self._now()

    def _now(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size

    def new_lines(self) -> Iterator[str]:
        """Yield the whole lines that were added since the last call."""
        inode, size = self._now()
        if inode != self._inode or size < self._place:
            self._inode, self._place = inode, 0
        if size == self._place:
            return
        with self._path.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._place += len(line)
                yield line.decode("utf-8", "replace").rstrip()
