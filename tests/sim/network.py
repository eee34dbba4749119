"""Connections: two pipes that keep the order and lose nothing but with themselves, as TCP does."""

from __future__ import annotations

from collections import deque
from heapq import heappush
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import decode_header, encode_header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sim.world import World


class Pipe:
    """One direction of a connection. All that is due on it arrives together.

    Attributes:
        receiver: whoever reads it; while that is ``stopped``, what comes waits.
        take: called with the pipe and what arrived: entries ``(time, message, frames)``.
        held: nothing arrives for now: the direction is stalled, or the connection is still being made.
    """

    __slots__ = (
        "base_s", "busy", "deliver", "held", "last", "parked", "power", "queue", "random", "receiver", "scheduler",
        "spread_s", "take", "wire",
    )  # fmt: skip

    def __init__(self, world: World, wire: Wire, receiver: Any, take: Callable[[Pipe, list[Any]], None]) -> None:
        self.scheduler = world.scheduler
        self.wire = wire
        self.receiver = receiver
        self.take = take
        self.queue: deque[tuple[float, Any, Sequence[Any]]] = deque()
        self.random = wire.party.random.random
        self.base_s, self.spread_s, self.power = world.delays(wire.party)
        self.last = 0.0
        self.busy = False
        self.held = False
        self.parked = False
        self.deliver = self._deliver  # One bound method for all entries.

    def send(self, message: Any, frames: Sequence[Any]) -> None:
        """Have a message arrive after a while, behind those before it."""
        scheduler = self.scheduler
        at = scheduler.now + self.base_s
        if self.spread_s:
            at += self.spread_s * self.random() ** self.power
        if at <= self.last:
            at = self.last
        else:
            self.last = at
        self.queue.append((at, message, frames))
        if not self.busy:
            self.busy = True
            scheduler.number = number = scheduler.number + 1
            heappush(scheduler.heap, (at, number, self.deliver, None))

    def _deliver(self, _: Any) -> None:
        if self.held or self.receiver.stopped:
            if not self.parked:
                self.parked = True
                if not self.held:
                    self.receiver.parked.append(self)
            return
        queue = self.queue
        scheduler = self.scheduler
        now = scheduler.now
        batch = []
        self.busy = False
        while queue:
            entry = queue.popleft()
            if entry[0] > now:
                queue.appendleft(entry)
                self.busy = True
                scheduler.number = number = scheduler.number + 1
                heappush(scheduler.heap, (entry[0], number, self.deliver, None))
                break
            batch.append(entry)
        if batch:
            self.take(self, batch)

    def unpark(self) -> None:
        """What kept it is over: let arrive what is due."""
        if self.parked and not self.held:
            self.parked = False
            self._deliver(None)

    def release(self) -> None:
        """End a stall."""
        self.held = False
        self.unpark()

    def inherit(self, former: Pipe, until: float) -> None:
        """Let arrive what is under way on the connection before this one, by then at the latest."""
        if former.queue:
            self.queue.extend((min(at, until), message, frames) for at, message, frames in former.queue)
            former.queue.clear()
            self.last = max(self.last, self.queue[-1][0])
            self.busy = True
            self.scheduler.at(self.queue[0][0], self.deliver)

    def drop(self) -> None:
        """Lose what is under way."""
        self.queue.clear()

    def drain(self) -> list[Any]:
        """Take all that is under way, whatever its time."""
        batch = list(self.queue)
        self.queue.clear()
        return batch


class CodecPipe(Pipe):
    """Passes each message through the codec, which must give back the same."""

    __slots__ = ()

    def send(self, message: Any, frames: Sequence[Any]) -> None:
        """Send what the other end would decode."""
        again: Any = decode_header(encode_header(message)) if type(message).__module__ != __name__ else message
        if type(again) is not type(message) or again != message:
            raise AssertionError(f"the codec turned {message} into {again}")
        Pipe.send(self, again, [bytes(frame) for frame in frames])


class Oversized:
    """Stands for a REQUEST over the limits, as the broker's shell sees it."""

    __slots__ = ("request_id",)

    def __init__(self, request_id: int) -> None:
        self.request_id = request_id


class Wire:
    """One connection of a party with the broker.

    Attributes:
        route: by which the broker knows it.
        opened: it stands or stood; before that, what is sent waits in ``up``.
        dead: it was lost or closed; what the broker still sends into it is lost.
    """

    __slots__ = ("dead", "down", "number", "opened", "party", "route", "up")

    def __init__(self, world: World, party: Any) -> None:
        world.wires += 1
        self.number = world.wires
        self.route = b"%06d" % world.wires
        self.party = party
        self.opened = False
        self.dead = False
        kind = CodecPipe if world.swarm.codec else Pipe
        self.up = kind(world, self, world.broker, world.broker.taker(party))
        self.down = kind(world, self, party, party.heard)
        self.up.held = True
