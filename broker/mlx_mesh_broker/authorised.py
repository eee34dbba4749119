"""Which keys are authorised now, and who holds them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlx_mesh_broker.core.quotas import STRANGER, Holder, Role
from mlx_mesh_broker.entry_files import EntryFiles
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.messages import LANE_NAMES, Lane

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_wire.keys import Entry

LOOK_S = 0.5
"""How often the directory is looked at, and so how long a revoked key may still be served."""


class Authorised:
    """The authorised keys, by their public key in Z85.

    An entry that cannot be read authorises nobody; if the directory is open to others, nobody is authorised.
    """

    def __init__(self, directory: Path) -> None:
        self._files = EntryFiles(directory, as_holder)
        self._twice: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._holders: dict[str, Holder] = {}
        self.look()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def behind(self) -> bool:
        """Whether there was no time for all that has changed, so that another look is due soon."""
        return self._files.behind

    def entry(self, public: str) -> Entry | None:
        """Return the entry of a key."""
        return self._entries.get(public)

    def holder(self, public: str, role: str) -> Holder:
        """Return who holds a key, or STRANGER if it is not authorised for this role now."""
        found = self._holders.get(public, STRANGER)
        return found if found.role == role else STRANGER

    def look(self, time_s: float = math.inf) -> list[str]:
        """Read what has changed, for so long; return the names of the holders whose key is not what it was any more."""
        if not self._files.look(time_s):
            return []
        before, self._entries = self._entries, self._unique()
        self._holders = {
            public: self._holders[public] if before.get(public) == entry else as_holder(entry)
            for public, entry in self._entries.items()
        }
        gone = [entry for public, entry in before.items() if not _same(entry, self._entries.get(public))]
        for entry in gone:
            log("info", "key_revoked", name=entry.name, role=entry.role)
        return [entry.name for entry in gone]

    def _unique(self) -> dict[str, Entry]:
        """Return the entries by their keys; of a key that has two, neither."""
        entries: dict[str, Entry] = {}
        twice: set[str] = set()
        for entry in self._files:
            if entry.public in entries:
                twice.add(entry.public)
                if entry.public not in self._twice:
                    names = f"{entries[entry.public].name!r} and {entry.name!r}"
                    log("warning", "key_ignored", reason=f"the keys of {names} are the same; neither is served")
            entries[entry.public] = entry
        for public in twice:
            del entries[public]
        self._twice = twice
        return entries


def as_holder(entry: Entry) -> Holder:
    """Return the holder of a key as the core knows it."""
    return Holder(
        entry.name,
        Role(entry.role),
        entry.rate_per_s,
        entry.burst,
        entry.outstanding_max,
        frozenset(Lane(LANE_NAMES.index(lane)) for lane in entry.lanes),
        frozenset(entry.ops),
        frozenset(entry.models),
    )


def _same(entry: Entry, other: Entry | None) -> bool:
    return other is not None and (entry.name, entry.role) == (other.name, other.role)
