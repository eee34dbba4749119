"""Which tests reach a line, and how long each takes: found by running them all once."""

from __future__ import annotations

import time
from pathlib import Path

import coverage
import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.exchange import Built

TEST_MAX_S = 0.3
"""CPU time. Tests that take longer are not asked about mutants; the score can only suffer from it."""

HABITS = {"deadline": None, "derandomize": True, "database": None, "max_examples": 30}
"""Of hypothesis: the same examples each time, and a slow machine is no failure."""


def passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    """Run one test."""
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))


class Reach:
    """The tests that a line's mutants are shown to, the quickest first."""

    def __init__(self, items: list[pytest.Item], sources: list[Path]) -> None:
        self._items = items
        self.seconds: dict[str, float] = {}
        self.broken: list[str] = []
        self._lines: dict[str, dict[int, set[str]]] = {}
        self._trace(sources)
        usable = [item for item in items if self.seconds.get(item.nodeid, TEST_MAX_S) < TEST_MAX_S]
        self._usable = sorted(usable, key=lambda item: self.seconds[item.nodeid])

    def _trace(self, sources: list[Path]) -> None:
        tracer = coverage.Coverage(data_file=None, include=[str(path) for path in sources], config_file=False)
        tracer.start()
        for item, following in zip(self._items, [*self._items[1:], None], strict=True):
            tracer.switch_context(item.nodeid)
            began = time.process_time()
            if passes(item, following):
                self.seconds[item.nodeid] = time.process_time() - began
            else:
                self.broken.append(item.nodeid)
        tracer.stop()
        data = tracer.get_data()
        for name in data.measured_files():
            lines = data.contexts_by_lineno(name)
            self._lines[name] = {line: {context for context in names if context} for line, names in lines.items()}

    def tests(self, built: Built, function: range) -> list[pytest.Item]:
        """Return the tests that reach the mutant; all that reach its function if the line has no code of its own."""
        mutant = built.mutant
        span = range(mutant.first, mutant.last + 1) if mutant.default is None else function
        lines = self._lines.get(str(built.path), {})
        names = set().union(*(lines.get(line, ()) for line in span)) or set().union(
            *(lines.get(line, ()) for line in function)
        )
        return [item for item in self._usable if item.nodeid in names]
