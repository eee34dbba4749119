"""The entries in the directory of keys, each read again when its file changes; nothing in here knows what for."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from mlx_mesh_wire.host import EXHAUSTED
from mlx_mesh_wire.key_files import KeysError, check_directory
from mlx_mesh_wire.keys import ENTRIES_MAX, Entry, entries_dir, is_entry, read_entry
from mlx_mesh_wire.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_Stat = tuple[int, ...]


class _File(NamedTuple):
    """What was found in a file; ``settled`` if it was read again after its change.

    The clock of a file system ticks every few milliseconds: what is written right after it was read may look unchanged.
    """

    stat: _Stat
    entry: Entry | None
    settled: bool


class EntryFiles:
    """Reads entries.

    Args:
        directory: of the keys.
        check: raises ValueError for an entry that cannot be served.

    Attributes:
        behind: there was no time for all that has changed; look again soon.
    """

    def __init__(self, directory: Path, check: Callable[[Entry], object]) -> None:
        self.behind = False
        self._outer = directory
        self._directory = entries_dir(directory)
        self._check = check
        self._listed: tuple[_Stat | None, bool] = (None, False)
        self._names: list[str] = []
        self._files: dict[str, _File] = {}
        self._complaints: dict[str, str] = {}

    def __iter__(self) -> Iterator[Entry]:
        return (file.entry for file in self._files.values() if file.entry is not None)

    def look(self, time_s: float = math.inf) -> bool:
        """Read what has changed, for so long; return whether any entry is not what it was."""
        until = time.monotonic() + time_s
        try:
            check_directory(self._outer)
            check_directory(self._directory)
            self._list()
            found = {name: _stat(f"{self._directory}/{name}") for name in self._names}
        except (KeysError, OSError) as error:
            self._complain("", str(error))
            self._listed, found = (None, False), {}
        else:
            self._complaints.pop("", None)
        there = {name: stat for name, stat in found.items() if stat is not None}
        gone = [name for name in self._files if name not in there]
        for name in gone:
            del self._files[name]
            self._complaints.pop(name, None)
        return self._read_changed(there, until) or bool(gone)

    def _list(self) -> None:
        """Learn the names that there are, if the directory has changed."""
        stat = _stat(str(self._directory))
        if self._listed == (stat, True):
            return
        try:
            with os.scandir(self._directory) as found:
                names = sorted(each.name for each in found if is_entry(each.name))
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            self._starved(error)
            return  # Of the names of before, those that are gone are noticed without a descriptor.
        if len(names) > ENTRIES_MAX:
            self._complain("/", f"there are {len(names)} keys, served are the first {ENTRIES_MAX} by name")
        self._listed = stat, stat == self._listed[0]
        self._names = names[:ENTRIES_MAX]

    def _read_changed(self, there: dict[str, _Stat], until: float) -> bool:
        self.behind = changed = False
        for name, stat in there.items():
            known = self._files.get(name)
            same = known is not None and known.stat == stat
            if known is not None and same and known.settled:
                continue
            if time.monotonic() >= until:
                self.behind = True
                break
            try:
                entry = self._read(name)
            except OSError as error:
                self._starved(error)
                break
            changed = changed or known is None or known.entry != entry
            self._files[name] = _File(stat, entry, settled=same)
        return changed

    def _read(self, name: str) -> Entry | None:
        """Return an entry, None if it authorises nobody.

        Raises:
            OSError: there is no descriptor to read it by.
        """
        path = self._directory / name
        try:
            entry = read_entry(path)
            if name != f"{entry.name}.json":
                raise KeysError(f"{path}: the name in it is {entry.name!r}; both are to be the same")
            self._check(entry)
        except (KeysError, ValueError) as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in EXHAUSTED:
                raise cause from None
            self._complain(name, str(error))
            return None
        self._complaints.pop(name, None)
        return entry

    def _complain(self, name: str, reason: str) -> None:
        if self._complaints.get(name) != reason:
            self._complaints[name] = reason
            log("warning", "key_ignored", reason=reason)

    def _starved(self, error: OSError) -> None:
        """Tell once, of who knows how many times, that what is known is gone by."""
        if "?" not in self._complaints:
            self._complaints["?"] = str(error)
            log("warning", "keys_not_read", reason=error.strerror)


def _stat(path: str) -> _Stat | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size, found.st_mode, found.st_uid
