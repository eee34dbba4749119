"""For whoever looks for the cause of a failure: what the core is told and what it decides, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim import run
from tests.sim.broker import SimBroker

if TYPE_CHECKING:
    from tests.sim.run import Result

SHOWN_CHARS = 300
"""Of one event or action."""


def trace(seed: int) -> Result:
    """Run a seed and print every event of its broker, with its time and the actions below it."""
    feed = SimBroker.feed

    def told(self: SimBroker, event: Any) -> None:
        fed = self.fed

        def seen(broker: Any, event: Any, actions: Any) -> None:
            print(f"{self.scheduler.now:.6f} {str(event)[:SHOWN_CHARS]}")
            for action in actions:
                print(f"    {str(action)[:SHOWN_CHARS]}")
            fed(broker, event, actions)

        self.fed = seen
        try:
            feed(self, event)
        finally:
            self.fed = fed

    SimBroker.feed = told  # type: ignore[method-assign]
    try:
        return run.run_seed(seed)
    finally:
        SimBroker.feed = feed  # type: ignore[method-assign]
