"""The other half of the seeds: a file of its own, so that another process of the test run takes it."""

from __future__ import annotations

import pytest

from tests.sim.suite import SEEDS, simulate


@pytest.mark.timeout(600)
def test_further_seeds_keep_every_promise() -> None:
    """No violation; of a thousand, every transition, error code, message, event and action comes about."""
    simulate(1000, SEEDS).check()
