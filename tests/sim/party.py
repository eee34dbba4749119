"""What client and worker have in common: a process with a clock, one connection, ticks, and pauses."""

from __future__ import annotations

from heapq import heappush
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.network import Wire

if TYPE_CHECKING:
    from tests.sim.network import Pipe
    from tests.sim.world import World

INFINITY = float("inf")
GRAIN_S = 1e-6
"""A wake-up comes this much late, so that no rounding of clocks makes it come early for ever."""


class Party:
    """A client's or a worker's process.

    Attributes:
        number: which of its kind.
        offset_s: by how much its clock differs from the world's.
        alive: there is a process.
        stopped: it is paused (SIGSTOP): it reads and computes nothing.
        parked: pipes with something for it, while it is paused.
        resumed_at: when it last went on, by the world's clock; at that instant it has not looked at its clock yet.
    """

    role = ""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.scheduler = world.scheduler
        self.number = number
        self.random = Random(f"{world.swarm.seed}/{self.role}/{number}/net")
        self.offset_s = float(self.random.randrange(100_000))
        self.alive = False
        self.stopped = False
        self.parked: list[Pipe] = []
        self.wire: Any = None
        self.session: Any = None
        self.tick_at = INFINITY
        self.pauses = 0
        self.resumed_at = 0.0

    @property
    def now(self) -> float:
        """The time by its own clock."""
        return self.scheduler.now + self.offset_s

    def heard(self, pipe: Pipe, batch: list[Any]) -> None:
        """Take in what arrived."""
        if not self.alive:
            return
        now = self.scheduler.now + self.offset_s
        message = self.session.message
        for _, each, frames in batch:
            message(now, each, frames)
        self.told()

    def told(self) -> None:
        """Do what the session wants done after what it heard."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Do what the session's time demands."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what the session wants sent."""
        raise NotImplementedError

    def arm(self) -> None:
        """See to it that the session's next tick comes."""
        due = self.session.next_tick() - self.offset_s + GRAIN_S
        if due < self.tick_at:
            scheduler = self.scheduler
            if due < scheduler.now:
                due = scheduler.now + GRAIN_S
            self.tick_at = due
            scheduler.number = number = scheduler.number + 1
            heappush(scheduler.heap, (due, number, self._on_tick, due))

    def _on_tick(self, due: float) -> None:
        if due != self.tick_at:
            return  # Another one came before it.
        self.tick_at = INFINITY
        if self.stopped or not self.alive:
            return
        now = self.scheduler.now + self.offset_s
        if self.session.next_tick() <= now:
            self.tick(now)
        else:
            self.arm()

    def connect(self, after_s: float) -> None:
        """Make a first connection."""
        self.wire = Wire(self.world, self)
        self.world.broker.expect(self.wire, after_s)

    def renew(
        self,
        after_s: float,
        *,
        notice_s: float = 0.0,
        up_arrives: bool = False,
        down_arrives: bool = False,
        unsent: bool = True,
    ) -> None:
        """Have another connection in place of this one.

        Args:
            after_s: until it stands.
            notice_s: until the broker notices that the old one is gone; what it sends there before is lost.
            up_arrives: what is under way to the broker still arrives, if need be behind what comes over the new one.
            down_arrives: what is under way to this party still arrives, before the new connection stands: a process
                reads one connection after the other.
            unsent: messages that were not sent yet, for want of a connection, go over the new one.
        """
        old = self.wire
        self.wire = wire = Wire(self.world, self)
        old.dead = True
        if not old.opened:
            if unsent:
                wire.up.queue.extend(old.up.queue)
                wire.up.busy = wire.up.parked = bool(wire.up.queue)
            old.up.drop()
        else:
            if not up_arrives:
                old.up.drop()
            old.up.release()
            old.down.held = False
            self.world.broker.forget(old, notice_s)
        if down_arrives:
            wire.down.inherit(old.down, self.scheduler.now + after_s)
        else:
            old.down.drop()
        self.world.broker.expect(wire, after_s)

    def pause(self, seconds: float) -> None:
        """Stop the process for a while."""
        self.stopped = True
        self.pauses += 1
        self.scheduler.after(seconds, self._resume, self.pauses)

    def _resume(self, pauses: int) -> None:
        if self.stopped and pauses == self.pauses:
            self.resume()

    def resume(self) -> None:
        """Go on; what came meanwhile is read at once."""
        self.stopped = False
        self.resumed_at = self.scheduler.now
        parked, self.parked = self.parked, []
        # Whether a process that goes on looks at its clock or at its socket first is chance.
        if self.alive and self.random.random() < 0.5:
            self.tick_at = INFINITY
            self.tick(self.now)
        for pipe in parked:
            pipe.unpark()
        if self.alive:
            self.arm()
