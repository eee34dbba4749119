"""Judges a world: the world tells it what happens, and it raises a Violation as soon as a promise is broken."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core import events
from tests.sim.audit import audit, emptied
from tests.sim.callers import Callers
from tests.sim.invariants import Violation
from tests.sim.reached import names
from tests.sim.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

AUDIT_EVENTS = 400
"""Events between two looks at everything, at least; with much outstanding it is as many more."""

RARE = frozenset(
    {
        events.ProcessExited,
        events.WorkerUnreachable,
        events.ClientUnreachable,
        events.HeldUp,
        events.Drain,
        events.ClientClogged,
    }
)
"""Events after which everything is looked at soon."""


class Oracle:
    """What a world calls.

    Attributes:
        seen: how often what was reached; ``reached`` is the same under names for people.
        once: how often what must run at most once has begun, by session and request id.
    """

    def __init__(self, world: Any) -> None:
        self.world = world
        self.seen: dict[Any, int] = defaultdict(int)
        self.callers = Callers(world, self.seen)
        self.asked = self.callers.asked
        self.piece = self.callers.piece
        self.ended = self.callers.ended
        self.vanished = self.callers.vanished
        self.watcher: Any = None
        self.healing = False
        self._left = AUDIT_EVENTS
        self.once: dict[tuple[bytes, int], int] = {}

    @property
    def reached(self) -> dict[str, int]:
        """What was reached, by name."""
        return names(self.seen)

    def cancelled(self, client: Any, call: Any) -> None:
        """A caller lost interest."""
        self.callers.cancelled(call)

    def fed(self, broker: Any, event: Any, actions: Sequence[Any]) -> None:
        """The core has handled an event."""
        watcher = self.watcher
        if watcher is None or watcher.core is not broker.core:
            watcher = self.watcher = Watcher(broker.core, broker.now, self.seen, self.once)
        watcher.fed(broker.scheduler.now + broker.offset_s, event, actions)
        self._left -= 1
        if self._left <= 0:
            self.audit()
        elif type(event) in RARE:
            self._left = min(self._left, 20)

    def audit(self) -> None:
        """Look at everything."""
        watcher = self.watcher
        self._left = AUDIT_EVENTS
        if watcher is not None:
            audit(watcher)
            self._left += 8 * sum(len(session.open) for session in watcher.sessions.values())
        self.callers.audit()

    def admitted(self, worker: Any, job: Any) -> None:
        """A worker took in a job; it may have been told in the same breath to forget it."""

    def begun(self, worker: Any, job: Any) -> None:
        """A worker begins to compute a job."""
        self._forget_no_cancel(worker, job)
        times = self.once.get(job.key)
        if times is not None:
            self.once[job.key] = times + 1
            if times:
                text = f"worker {worker.number} begins job {job.id}, which has begun before and must not run again"
                raise Violation("at_most_once", text)

    def computed(self, worker: Any, job: Any) -> None:
        """A worker has computed a job."""
        if job.started:
            self._forget_no_cancel(worker, job)

    def _forget_no_cancel(self, worker: Any, job: Any) -> None:
        watcher = self.watcher
        if watcher is None or job.id not in watcher.cancels:
            return
        before, route = watcher.cancels[job.id]
        last = next(reversed(worker.session.jobs), 0)
        if last > before and worker.wire.route == route:  # Otherwise it may have been lost with a connection.
            text = f"worker {worker.number} goes on with job {job.id}, whose CANCEL came before job {last}"
            raise Violation("cancelled_work", text)

    def died(self, worker: Any) -> None:
        """A worker's process crashed."""

    def drained(self, worker: Any) -> None:
        """A worker left in order."""

    def broker_died(self, broker: Any) -> None:
        """The broker is gone, and its books with it."""
        self.audit()
        self.watcher = None

    def phase(self, name: str) -> None:
        """The faults are over."""
        self.audit()
        self.healing = True

    def finished(self) -> None:
        """All has been asked and answered."""
        self.audit()
        if self.callers.open:
            raise Violation("healed", f"{len(self.callers.open)} calls have no end")
        emptied(self.watcher)
        for worker in self.world.workers:
            if worker.alive and worker.session.jobs:
                raise Violation("healed", f"worker {worker.number} still holds {list(worker.session.jobs)}")
