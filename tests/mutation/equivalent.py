"""Mutants that no test can notice, each with the reason; reviewed by hand and counted apart."""

from __future__ import annotations

import tomllib
from pathlib import Path

LIST = Path(__file__).with_name("equivalent.toml")


def equivalent() -> set[tuple[str, str, str]]:
    """Return the keys of those that are listed; each has to say why."""
    entries = tomllib.loads(LIST.read_text()).get("mutant", [])
    for entry in entries:
        if not entry["why"].strip():
            raise ValueError(f"{LIST.name}: {entry['where']} gives no reason")
    return {(entry["where"], entry["was"], entry["becomes"]) for entry in entries}
