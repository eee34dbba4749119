"""A second of each of the worst attacks: nobody's call fails, the loop goes on, and nothing is left of it.

How long it is away from its sockets, to a tenth of a second, is for the long run on a machine that has nothing else to
do; here it is only seen that it goes on.
"""

from __future__ import annotations

import pytest

from tests.abuse.trial import FDS_SLACK, RSS_SLACK, Outcome, trial

GAP_MAX_S = 8.0
SETTLE_S = 100.0
"""For machines that run many other tests at the same time."""

GOOD = Outcome("nothing", 1, 100, {}, 0.01, 0.01, 0.0, 0, 0, 0, 0.0)
BAD = {
    "an attack that did nothing": GOOD._replace(done=0),
    "no good calls at all": GOOD._replace(calls=0),
    "a call that failed": GOOD._replace(failed={"DEADLINE_EXCEEDED: late": 1}),
    "a loop that was away": GOOD._replace(gap_s=0.11),
    "a call that took longer": GOOD._replace(longer_s=0.11),
    "memory that is left": GOOD._replace(rss_left=RSS_SLACK + 1),
    "descriptors that are left": GOOD._replace(fds_left=FDS_SLACK + 1),
}


@pytest.mark.parametrize("outcome", BAD.values(), ids=BAD.keys())
def test_each_kind_of_harm_is_a_fault(outcome: Outcome) -> None:
    assert 1 == len(outcome.faults)


def test_what_the_machine_itself_held_up_is_no_fault() -> None:
    assert [] == GOOD.faults
    assert [] == GOOD._replace(gap_s=0.15, longer_s=0.15, machine_s=0.06).faults


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name",
    [
        "silent peers",
        "empty frames in one message",
        *(
            pytest.param(name, marks=pytest.mark.trial)
            for name in (
                "garbage greetings",
                "half greetings",
                "connect, send, vanish",
                "100 frames, 90 MB",
                "subscription floods",
                "commands",
            )
        ),
    ],
)
def test_an_attack_harms_nobody_and_leaves_nothing(name: str) -> None:
    outcome = trial(name, 1.0, SETTLE_S)
    assert outcome.gap_s < GAP_MAX_S + outcome.machine_s
    assert [] == outcome._replace(gap_s=0.0, longer_s=0.0).faults
