"""What the guard of this machine says, and what workers serve or served, whether they are here or not."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from mlx_mesh_wire.messages import Lane

if TYPE_CHECKING:
    from mlx_mesh_broker.core.catalogue import Kind
    from mlx_mesh_broker.core.timers import Alarm
    from mlx_mesh_wire.guard_report import GuardReport

GUARD_LEASE_S: Final = 10.0
"""How long a report holds. The guard sends one a second: ten that are missing mean that it is gone, not late."""

ROSTER_MAX: Final = 4096
"""Names of workers whose ops are remembered, those not seen for longest go first: as many as may be here at once."""


class Guard:
    """What the guard said last.

    Attributes:
        report: None when there is none that holds.
        told_at: when it came.
        lease: ends it.
        lowest: the lowest lane of which the workers of this machine get new jobs.
        paused_at: since when that is higher than bulk.
    """

    __slots__ = ("lease", "lowest", "paused_at", "report", "told_at")

    def __init__(self) -> None:
        self.report: GuardReport | None = None
        self.told_at = 0.0
        self.lease: Alarm | None = None
        self.lowest = Lane.BULK
        self.paused_at = 0.0

    @property
    def paused(self) -> str:
        """The highest lane that waits; empty if none does."""
        return "" if self.lowest is Lane.BULK else Lane(self.lowest + 1).name.lower()


class Roster:
    """The ops and models of all workers that have been here, by name, within a bound."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, Kind] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kinds)

    def note(self, name: str, kind: Kind) -> None:
        """Remember what a worker serves."""
        self._kinds[name] = kind
        self._kinds.move_to_end(name)
        if len(self._kinds) > ROSTER_MAX:
            self._kinds.popitem(last=False)

    def served(self, name: str, op: str, model: str) -> bool | None:
        """Whether the worker served the op on the model; None if nothing is known of it."""
        kind = self._kinds.get(name)
        if kind is None:
            return None
        ops, models = kind
        return op in ops and (not model or not models or model in models)
