"""Shows mutants to tests, each in a process of its own that ends with the first test that notices."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

from tests.mutation.exchange import Built, Functions, exchange_cold
from tests.mutation.fork import Fork, hush
from tests.mutation.reach import HABITS, Reach, passes
from tests.mutation.targets import LONG, Group

BUDGET_S = 2.5
"""CPU time of the tests that one mutant is shown to; what they have not noticed by then has survived."""

LOOP_MIN_S = 0.5
LOOP_TIMES = 10
"""A test that takes more than this CPU time, and so many times what it did before, is taken to loop for ever."""

HANG_MAX_S = 60
GROWTH_MAX_BYTES = 2 << 30

NOTICED, UNNOTICED, UNTRIED = 1, 0, 3


class Verdict(NamedTuple):
    """What became of a mutant: ``killed``, ``looped`` (or died), ``survived``, ``unreached``, ``untried``."""

    built: Built
    fate: str


class _Warm:
    """Collects once, finds out what reaches what, then forks for each mutant."""

    def __init__(self, mutants: list[Built], told: Callable[[Verdict], None], paths: list[Path]) -> None:
        self._mutants, self._told, self._paths = mutants, told, paths
        self.reach: Reach | None = None

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.reach = reach = Reach(session.items, self._paths)
        functions = Functions(self._paths)
        gc.freeze()
        for built in self._mutants:
            found = functions.of(built)
            lines = [line for f in found for _, _, line in f.__code__.co_lines() if line]
            items = reach.tests(built, range(min(lines, default=0), max(lines, default=0) + 1))
            fate = _fate(lambda b=built, i=items: _warm_child(functions, b, i, reach.seconds)) if items else "unreached"
            self._told(Verdict(built, fate))
        return True


def _warm_child(functions: Functions, built: Built, items: list[pytest.Item], seconds: dict[str, float]) -> int:
    functions.exchange(built)
    return _until_noticed(items, seconds)


class _Cold:
    """Runs the tests of a group, the quickest first, in a process that has imported a mutant."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self.code = NOTICED  # of a mutant that cannot be imported

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        known = [item for item in session.items if item.nodeid in self._seconds]
        known.sort(key=lambda item: self._seconds[item.nodeid])
        self.code = _until_noticed(known, self._seconds) if len(known) == len(self._seconds) else NOTICED
        return True


def _until_noticed(items: list[pytest.Item], seconds: dict[str, float]) -> int:
    end = time.process_time() + BUDGET_S
    for item, following in zip(items, [*items[1:], None], strict=True):
        signal.setitimer(signal.ITIMER_PROF, LOOP_MIN_S + LOOP_TIMES * seconds[item.nodeid])
        if not passes(item, following):
            return NOTICED
        if time.process_time() > end:
            break
    return UNNOTICED


def try_group(group: Group, mutants: list[Built], told: Callable[[Verdict], None]) -> list[str]:
    """Try all mutants of a group; return the tests that fail without any, which are not asked."""
    cold = [built for built in mutants if built.cold]

    def sorted_out(verdict: Verdict) -> None:
        if verdict.fate == "unreached" and verdict.built.mutant.default is None:
            cold.append(verdict.built)  # perhaps it is reached when its module is imported
        else:
            told(verdict)

    warm = [built for built in mutants if not built.cold]
    seconds, broken = Fork(lambda tell: _try_warm(group, warm, tell), mute=True).result(sorted_out)
    for built in cold:
        told(Verdict(built, _fate(lambda b=built: _cold_child(group, b, seconds))))
    return broken


def _try_warm(
    group: Group, mutants: list[Built], told: Callable[[Verdict], None]
) -> tuple[dict[str, float], list[str]]:
    plugin = _Warm(mutants, told, group.sources)
    _pytest(group, plugin)
    assert plugin.reach is not None, f"the tests of {group.name} cannot be collected"
    return plugin.reach.seconds, plugin.reach.broken


def _cold_child(group: Group, built: Built, seconds: dict[str, float]) -> int:
    exchange_cold(built)
    plugin = _Cold({name: taken for name, taken in seconds.items() if taken < 0.5})
    _pytest(group, plugin)
    return plugin.code


def _pytest(group: Group, plugin: object) -> None:
    hypothesis.settings.register_profile("mutation", **HABITS)
    hypothesis.settings.load_profile("mutation")
    without = [word for plugin in ("cacheprovider", "cov", "xdist") for word in ("-p", f"no:{plugin}")]
    options = ["-q", "--timeout=0", "--capture=no", "--tb=line", "--assert=plain", *without]
    options += [f"--deselect={name}" for name in LONG]
    pytest.main([*options, *map(str, group.tests)], plugins=[plugin])


def _fate(child: Callable[[], int]) -> str:
    pid = os.fork()
    if pid == 0:
        code = UNTRIED
        try:
            _limit()
            hush()
            code = child()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "looped"
    return {NOTICED: "killed", UNNOTICED: "survived"}.get(os.WEXITSTATUS(status), "untried")


def _limit() -> None:
    signal.alarm(HANG_MAX_S)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the CPU time alone bounds it
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + GROWTH_MAX_BYTES, most))
