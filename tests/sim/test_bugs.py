"""The oracle is checked: it finds each bug that is planted into the real code, and says which promise that breaks."""

from __future__ import annotations

import pytest

from tests.sim.bugs import by_oracle, hunt, planted
from tests.sim.planted import BUGS, Bug, Change
from tests.sim.run import run_seed

TRIES = 4
"""Seeds for each bug, from one on that is known to find it: a change of the plans may move it a little."""

BUGS_MIN = 27


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    found = hunt(bug, bug.seed, TRIES)
    assert by_oracle(found), found


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own() -> None:
    assert BUGS_MIN <= len(BUGS) == len({bug.name for bug in BUGS})


def test_without_a_bug_nothing_is_found() -> None:
    assert run_seed(BUGS[0].seed).failure is None


def test_a_bug_that_no_longer_fits_the_code_is_not_planted_in_vain() -> None:
    gone = Bug("gone", "It is not there.", Change(Bug, "_replace", "no such text", ""))
    with pytest.raises(LookupError), planted(gone):
        pass
