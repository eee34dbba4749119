"""Real processes are hurt for seconds, clients check every answer; ``make faults`` does the same for long."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.mixes.catalogue import MIXES, Mix, in_turn, refusals
from tests.faults.mixes.stage import WORKERS
from tests.faults.mixes.tally import Tally, table
from tests.faults.mixes.trial import run

SEED = 7
FEW = ("async", "sync", "visit")


def trial(mix: Mix, seconds: float, *faults: str) -> Tally:
    """Run a mix with few clients; everything that was to be done to the mesh must have been done."""
    tally = run(mix._replace(clients=FEW + mix.clients[len(FEW) + 1 :]), seconds, SEED)
    assert tally.good, "\n".join([table([("trial", 1, tally)]), *tally.words])
    missing = [fault for fault in faults if not tally.faults[fault]]
    assert not missing, tally.faults
    return tally


@pytest.mark.trial
@pytest.mark.timeout(240)
def test_kills_stops_paths_and_clients_that_vanish_cost_no_call_more_than_the_table_says() -> None:
    mix = in_turn("worker-kills", "worker-stops", "broker-kills", "broker-stops", "paths", "client-kills")
    trial(mix._replace(workers=WORKERS), 8, "worker kills", "stops", "broker kills", "client kills")


def test_an_error_that_a_mix_does_not_allow_is_a_failure() -> None:
    errors = Counter({"hasty DEADLINE_EXCEEDED": 3, "once WORKER_LOST": 2, "echo WORKER_LOST": 1})
    assert refusals(MIXES["worker-kills"], errors) == {"echo WORKER_LOST": 1}
    assert refusals(MIXES["corruption-without-keys"], Counter({"echo WORKER_LOST": 1})) == {}


@pytest.mark.parametrize("name", ["lost", "doubled", "wrong", "hung", "refused", "unhealed"])
def test_one_failure_of_any_sort_is_a_failed_run(name: str) -> None:
    tally = Tally(calls=Counter(echo=1))
    assert tally.good
    setattr(tally, name, 1)
    assert not tally.good
    assert not Tally().good
    again = Tally.from_map(tally.as_map())
    assert again == tally
