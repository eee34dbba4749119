"""What a benchmark found: its figures, the targets it was held to, and the file both are kept in."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, versions


@dataclass(frozen=True)
class Target:
    """One line of the final table.

    Attributes:
        what: what was measured.
        sense: "at most" or "at least".
        bound: the number that ``figure`` is held to.
        figure: the measured number; NaN if a peer was not there.
        unit: of both, such as ``x``, ``s`` or ``ms``.
        detail: the figures behind it, for people.
    """

    what: str
    sense: str
    bound: float
    figure: float
    unit: str = "x"
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Return met, missed or not measured."""
        if math.isnan(self.figure):
            return "not measured"
        met = self.figure <= self.bound if self.sense == "at most" else self.figure >= self.bound
        return "met" if met else "missed"


@dataclass(frozen=True)
class Result:
    """All that one benchmark found. ``data`` holds its own figures, raw ones of each round included."""

    name: str
    targets: Sequence[Target]
    data: dict[str, Any]
    quick: bool = False
    skipped: Sequence[str] = ()
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)

    def save(self, folder: Path) -> Path:
        """Write NAME.json and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        content = asdict(self)
        for line, target in zip(content["targets"], self.targets, strict=True):
            line["verdict"] = target.verdict
        path.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")
        return path


def load(path: Path) -> Result:
    """Read what :meth:`Result.save` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    targets = []
    for line in content.pop("targets"):
        line.pop("verdict")
        targets.append(Target(**{**line, "figure": math.nan if line["figure"] is None else line["figure"]}))
    return Result(targets=targets, **content)


def _plain(value: Any) -> Any:
    """Return the value with six significant digits for each float and null for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value
