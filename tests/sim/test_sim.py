"""Simulated meshes keep every promise, whatever goes wrong in them. Half of the seeds; the others are run beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import plan, shrink, swarm
from tests.sim.bugs import planted
from tests.sim.invariants import INVARIANTS, Violation
from tests.sim.planted import BUGS
from tests.sim.reached import ELSEWHERE, expected
from tests.sim.run import replay, run_seed, run_world
from tests.sim.suite import SEEDS, simulate

HASHED = (3, 17)
"""Seeds whose traces are compared."""

_PRINTS_HASHES = "from tests.sim.run import run_seed; print([run_seed(seed).hash for seed in {seeds}])"


@pytest.mark.timeout(600)
def test_the_first_seeds_keep_every_promise() -> None:
    """No violation; of a thousand, every transition, error code, message, event and action comes about."""
    simulate(0, SEEDS).check()


@pytest.mark.parametrize("hash_seed", ["1", "4711"])
def test_a_seed_has_the_same_trace_whatever_python_hashes_strings_to(hash_seed: str) -> None:
    command = [sys.executable, "-c", _PRINTS_HASHES.format(seeds=HASHED)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert str([run_seed(seed).hash for seed in HASHED]) == told.stdout.strip()


def test_a_failure_shrinks_to_few_events_that_paste_as_a_test() -> None:
    bug = next(bug for bug in BUGS if bug.name == "second_granted")
    with planted(bug):
        drawn = swarm.draw(bug.seed)
        events = plan.draw(drawn)
        failure = run_world(drawn, events)
        assert failure.failure is not None
        less, few = shrink.shrink(drawn, events, failure, seconds=20.0)
        assert len(few) <= 4
        snippet = shrink.as_test(less, few, failure.failure)
        scope: dict[str, object] = {}
        with pytest.raises(AssertionError, match="deadline"):
            replay(less, few)
        exec(snippet, scope)
    assert any(name.startswith("test_") for name in scope)
    replay(less, few)


def test_each_violation_has_a_name_with_a_meaning() -> None:
    assert all(text.endswith(".") for text in INVARIANTS.values())
    with pytest.raises(KeyError):
        Violation("no_such_invariant", "")


def test_what_cannot_be_reached_here_is_there_and_tested_where_the_table_says() -> None:
    assert set(ELSEWHERE) <= set(expected())
    for why in ELSEWHERE.values():
        assert all((Path(__file__).parents[2] / folder).is_dir() for folder in re.findall(r"tests/\w+", why))
