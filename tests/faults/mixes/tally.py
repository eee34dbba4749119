"""What came of the calls: counted by clients, added up by runs, shown as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

TEXTS_MAX = 20
"""Of each sort of failure as many are told in words; all are counted."""


@dataclass
class Tally:
    """Counts of one client, run or mix.

    Attributes:
        calls: calls that were begun, by kind.
        errors: typed errors, by ``KIND CODE``; whether one is allowed is for the mix to say.
        faults: what was done to the mesh: ``worker kills``, ``stops``, ``broker kills``, ``resets`` ...
        lost: calls that were begun and of which nothing was ever heard.
        doubled: answers, chunks or computations at most once that came twice.
        wrong: answers with other bytes than they should have.
        hung: calls that ended long after their deadline, or never.
        refused: errors that the mix does not allow.
        unhealed: what was not as it should be once the faults were over.
        longest_s: the longest call.
        examples: the first error of each ``KIND CODE``.
        words: the first failures, told.
    """

    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    hung: int = 0
    refused: int = 0
    unhealed: int = 0
    longest_s: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every call ended as it should, and there were any."""
        failed = self.lost + self.doubled + self.wrong + self.hung + self.refused + self.unhealed
        return not failed and self.calls.total() > 0

    def say(self, text: str) -> None:
        """Tell a failure in words."""
        if len(self.words) < TEXTS_MAX:
            self.words.append(text)

    def add(self, other: Tally) -> None:
        """Add another's counts."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            elif name == "words":
                self.words += value[: TEXTS_MAX - len(self.words)]
            elif name == "examples":
                self.examples = {**value, **mine}
            elif name == "longest_s":
                self.longest_s = max(mine, value)
            else:
                setattr(self, name, mine + value)

    def as_map(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_map(cls, given: dict[str, Any]) -> Self:
        """Read what ``as_map`` wrote."""
        counters = {name: Counter(given[name]) for name in ("calls", "errors", "faults")}
        return cls(**{**given, **counters})


COLUMNS = ("mix", "runs", "calls", "kills", "stops", "broker kills", "lost", "doubled", "wrong", "hung", "refused")


def table(rows: Iterable[tuple[str, int, Tally]]) -> str:
    """Return a table of mixes in Markdown: name, runs, and what came of them."""
    lines = [[*COLUMNS, "longest s", "errors by code"]]
    for name, runs, tally in rows:
        faults = tally.faults
        counts = [tally.lost, tally.doubled, tally.wrong, tally.hung, tally.refused + tally.unhealed]
        errors = Counter[str]()
        for words, count in tally.errors.items():
            errors[words.split()[-1]] += count
        cells = [
            runs, tally.calls.total(), faults["worker kills"], faults["stops"], faults["broker kills"], *counts,
            f"{tally.longest_s:.1f}", ", ".join(f"{code} {count}" for code, count in sorted(errors.items())) or "none",
        ]  # fmt: skip
        lines.append([name, *map(str, cells)])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)
