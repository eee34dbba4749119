"""What seeds have found, shrunk to a few events: each stays found, or stays mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_mesh_wire.messages import Flag
from tests.sim import bodies
from tests.sim.client import EAGER
from tests.sim.oracle import Oracle
from tests.sim.plan import Event
from tests.sim.run import replay
from tests.sim.swarm import Swarm

if TYPE_CHECKING:
    from typing import Any


def _call(client: int, number: int, timeout_s: float) -> tuple[Any, ...]:
    return client, number, "echo", "", 1, timeout_s, Flag.WAIT_FOR_READY, 0, b"", number, 5.0, bodies.PLAIN, EAGER


def test_two_lives_of_a_client_may_end_for_the_broker_at_one_wake_up() -> None:
    """Both have one name. The former is gone for long enough, the other has long been silent (seed 3054)."""
    config = ("away_s", 11.5), ("session_idle_s", 10.0)
    swarm = Swarm(seed=3, duration_s=40.0, config=config, on=frozenset({"pauses", "broker_pauses", "vanishes"}))
    replay(
        swarm,
        [
            Event(1001.5, "call", _call(0, 1, 60.0)),
            Event(1001.5, "call", _call(0, 2, 60.0)),
            Event(1002.0, "vanish", (0, 0.1, 0.0, False)),
            Event(1003.5, "call", _call(0, 3, 60.0)),
            Event(1003.5, "call", _call(0, 4, 11.35)),
            Event(1004.2, "pause", ("client", 0, 30.0)),
            Event(1014.4, "pause", ("broker", 0, 0.8)),
        ],
    )


def test_a_client_that_goes_on_at_this_instant_may_end_its_calls_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is healed while it is paused, and all is looked at before it has looked at its clock (seed 1452)."""
    fed = Oracle.fed

    def fed_and_audited(self: Oracle, broker: Any, event: Any, actions: Any) -> None:
        fed(self, broker, event, actions)
        self.audit()

    monkeypatch.setattr(Oracle, "fed", fed_and_audited)
    for seed in range(4):  # Whether it looks at its clock or at its socket first is chance.
        config = (("client_max_outstanding", 1),)
        swarm = Swarm(seed=seed, duration_s=10.0, config=config, on=frozenset({"pauses"}))
        waiting = [Event(1001.0, "call", _call(0, number, 4.0)) for number in (1, 2, 3)]
        replay(swarm, [*waiting, Event(1002.0, "pause", ("client", 0, 60.0))])
