"""What is around real processes, and what they are asked, hurts them for seconds; see also ``test_mixes``."""

from __future__ import annotations

import pytest

from tests.faults.mixes.catalogue import MIXES, QUICK, in_turn
from tests.faults.test_mixes import trial


@pytest.mark.trial
@pytest.mark.timeout(240)
def test_few_descriptors_full_disks_and_clocks_that_go_back_cost_no_call_more_than_the_table_says() -> None:
    mix = in_turn("descriptors", "full-disk", "wall-clock")
    trial(mix._replace(log=MIXES["full-disk"].log, prepare=MIXES["wall-clock"].prepare), 4, "worker kills")


@pytest.mark.trial
@pytest.mark.timeout(240)
def test_poison_is_told_as_such_and_nothing_else_is() -> None:
    mix = MIXES["poison"]
    tally = trial(mix._replace(env={**mix.env, **QUICK}), 3)
    assert tally.errors["poison POISON_REQUEST"] == tally.calls["poison"] > 0
