"""The score: of the mutants that can be noticed, the share that was."""

from __future__ import annotations

from collections import Counter

from tests.mutation.trial import Verdict

LEAST = 90.0
"""Per cent of the mutants that have to be killed, in total."""

KILLED = ("killed", "looped")
ROW = "{:<36}{:>8}{:>8}{:>8}{:>10}{:>10}{:>11}{:>8}"


class Scores:
    """Counts fates by module, and prints each survivor as it comes."""

    def __init__(self, equivalent: set[tuple[str, str, str]]) -> None:
        self._equivalent = equivalent
        self._met: set[tuple[str, str, str]] = set()
        self._by_module: dict[str, Counter[str]] = {}

    def add(self, verdict: Verdict) -> None:
        """Count one."""
        built, fate = verdict
        if fate not in KILLED and built.key in self._equivalent:
            self._met.add(built.key)
            fate = "equivalent"
        elif fate not in KILLED:
            place = f"{built.path.name}:{built.mutant.first} {built.mutant.where}"
            print(f"{fate}: {place}: {built.mutant.was!r} -> {built.mutant.becomes!r}", flush=True)
        self._by_module.setdefault(built.module, Counter())[fate] += 1

    def total(self) -> float:
        """Return the score over all modules, in per cent."""
        return _score(sum(self._by_module.values(), Counter()))

    def outdated(self) -> set[tuple[str, str, str]]:
        """Return what is listed as equivalent and was noticed, or is no mutant any more."""
        return self._equivalent - self._met

    def table(self) -> str:
        """Return the scores by module, the worst first, and in total."""
        lines = [ROW.format("module", "mutants", "killed", "looped", "survived", "unreached", "equivalent", "score")]
        rows = sorted(self._by_module.items(), key=lambda row: _score(row[1]))
        for name, counts in [*rows, ("total", sum(self._by_module.values(), Counter[str]()))]:
            figures = [counts[fate] for fate in ("killed", "looped", "survived", "unreached", "equivalent")]
            lines.append(ROW.format(name, counts.total(), *figures, f"{_score(counts):.1f} %"))
        return "\n".join(lines)


def _score(counts: Counter[str]) -> float:
    countable = counts.total() - counts["equivalent"]
    return 100.0 * sum(counts[fate] for fate in KILLED) / countable if countable else 100.0
