"""What was noticed the last time, so that only the rest needs to be tried after tests were added."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mutation.exchange import Built
from tests.mutation.targets import ROOT

FILE = ROOT / "build" / "mutation.json"


class Memory:
    """The fates of mutants by what they are and where; a line that moved is tried anew."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._fates = self._read()
        self._new: dict[str, str] = {}

    def fate(self, built: Built) -> str:
        """Return what became of the mutant, or an empty string."""
        return self._fates.get(_name(built), "")

    def keep(self, built: Built, fate: str) -> None:
        """Remember it; :meth:`save` writes it down."""
        self._new[_name(built)] = fate

    def save(self) -> None:
        """Write it down beside what others, who tried another part meanwhile, have written."""
        self._file.parent.mkdir(exist_ok=True)
        self._file.write_text(json.dumps({**self._read(), **self._new}, indent=0))

    def _read(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._file.read_text()) if self._file.exists() else {}
        return found


def _name(built: Built) -> str:
    return " | ".join((*built.key, str(built.mutant.first)))
