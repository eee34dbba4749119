"""The network between real processes hurts them for seconds; see also ``test_mixes``."""

from __future__ import annotations

import pytest

from tests.faults.mixes.catalogue import MIXES, QUICK, in_turn
from tests.faults.test_mixes import trial


@pytest.mark.trial
@pytest.mark.timeout(240)
def test_a_bad_network_costs_no_call_more_than_the_table_says() -> None:
    mix = in_turn("latency", "slow", "resets", "half-open", "cuts", "stalls")
    trial(mix, 8, "changes of latency", "changes of pace", "resets", "half-open", "cuts", "stalls")


@pytest.mark.trial
@pytest.mark.timeout(240)
def test_no_changed_byte_is_taken_for_right_between_peers_with_keys() -> None:
    mix = MIXES["corruption"]
    tally = trial(mix._replace(env={**mix.env, **QUICK}), 3, "changes of corruption")
    assert tally.faults["lost messages"] <= 1, "only what hits the flags of a frame, a byte in some hundred"
