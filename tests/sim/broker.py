"""The broker's process: the real core, and what its shell does with events and actions."""

from __future__ import annotations

from heapq import heappush
from random import Random
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.actions import ToClient, ToWorker, Unwatch, Watch
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_broker.core.events import FromClient, FromWorker
from mlx_mesh_wire.messages import TYPE_CODES
from tests.sim.network import Oversized
from tests.sim.party import GRAIN_S, INFINITY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.network import Pipe, Wire
    from tests.sim.world import World

HELD_UP_S = 1.0
"""From when on the shell tells the core that it was held up."""

new = tuple.__new__  # Half the time of the named tuple's own constructor.
EVENT_CODES = {kind: 64 + number for number, kind in enumerate(events.Event.__args__)}  # type: ignore[attr-defined]


class SimBroker:
    """One place for a broker, which may die and be started again.

    Attributes:
        core: of the living broker; of the dead one until there is another.
        epoch: of that core.
        down: there is no process; it is ``stopped`` then too, as while it is paused.
        watched: local workers whose process it watches, by instance.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.scheduler = world.scheduler
        self.random = Random(f"{world.swarm.seed}/broker")
        self.config = Config(**dict(world.swarm.config))
        self.offset_s = float(self.random.randrange(100_000))
        self.lives = 0
        self.down = self.stopped = True
        self.parked: list[Pipe] = []
        self.awaited: list[Wire] = []
        self.routes: dict[bytes, Wire] = {}
        self.watched: dict[bytes, Any] = {}
        self.unsent: dict[bytes, list[Any]] = {}
        self.tick_at = INFINITY
        self.pauses = 0
        self.paused_at = 0.0
        self.epoch = ""
        self.core: Any = None
        self.clogs = world.swarm.clog_messages
        self.clogged: dict[bytes, Wire] = {}

    @property
    def now(self) -> float:
        """The time by the broker's clock."""
        return self.scheduler.now + self.offset_s

    def start(self, _: Any = None) -> None:
        """Begin another life."""
        if not self.down:
            return
        self.lives += 1
        self.epoch = f"epoch-{self.world.swarm.seed}-{self.lives}"
        self.core = Broker(self.config, self.epoch, self.now, "here")
        self._handle = self.core.handle
        self._next_wakeup = self.core._state.timers.next  # As Broker.next_wakeup has it, a call shorter.
        self.fed = self.world.oracle.fed
        self.down = self.stopped = False
        self.tick_at = INFINITY
        awaited, self.awaited = self.awaited, []
        for wire in awaited:
            self._accept(wire)
        self.settle()

    def die(self, down_s: float, reconnect_s: float, down_arrives: bool) -> None:
        """Lose everything; the parties connect to whoever comes."""
        if self.down:
            return
        self.down = self.stopped = True
        self.parked = []
        self.watched = {}
        self.unsent = {}
        self.clogged = {}
        self.world.oracle.broker_died(self)
        for party in self.world.parties():
            if party.alive and party.wire is not None:
                party.renew(down_s + reconnect_s * self.random.random(), down_arrives=down_arrives)
        self.routes = {}
        self.scheduler.after(down_s, self.start)

    def pause(self, seconds: float) -> None:
        """Be stopped for a while."""
        if not self.down:
            self.stopped = True
            self.pauses += 1
            self.paused_at = self.now
            self.scheduler.after(seconds, self._resume, self.pauses)

    def _resume(self, pauses: int) -> None:
        if self.stopped and not self.down and pauses == self.pauses:
            self.resume()

    def resume(self) -> None:
        """Go on after having been away."""
        self.stopped = False
        away_s = self.now - self.paused_at
        if away_s > HELD_UP_S:
            self.feed(events.HeldUp(away_s))
        if self.random.random() < 0.5:
            self.wake()
        parked, self.parked = self.parked, []
        self.random.shuffle(parked)
        for pipe in parked:
            pipe.unpark()
        self.settle()

    def jump(self, seconds: float) -> None:
        """See the clock leap."""
        self.offset_s += seconds
        if not self.stopped:
            if seconds > HELD_UP_S:
                self.feed(events.HeldUp(seconds))
            self.settle()

    def expect(self, wire: Wire, after_s: float) -> None:
        """Have a connection stand after a while."""
        self.scheduler.after(after_s, self._accept, wire)

    def _accept(self, wire: Wire) -> None:
        if wire.dead:
            return
        if self.down:
            self.awaited.append(wire)
            return
        wire.opened = True
        self.routes[wire.route] = wire
        wire.up.release()

    def forget(self, wire: Wire, after_s: float) -> None:
        """Notice after a while that a connection is gone."""
        self.scheduler.after(after_s, self._forget, wire.route)

    def _forget(self, route: bytes) -> None:
        self.routes.pop(route, None)

    def forget_dead(self) -> None:
        """Notice all connections that are gone."""
        self.routes = {route: wire for route, wire in self.routes.items() if not wire.dead}

    def taker(self, party: Any) -> Callable[[Pipe, list[Any]], None]:
        """Return what takes the messages of a party."""
        return self._from_client if party.role == "client" else self._from_worker

    def _from_client(self, pipe: Pipe, batch: list[Any]) -> None:
        route = pipe.wire.route
        feed = self.feed
        for _, message, frames in batch:
            if type(message) is Oversized:
                feed(events.BadClientMessage(route, "a frame over the limit", message.request_id, "TOO_LARGE"))
            else:
                feed(new(FromClient, (route, message, frames, None)))
        self.settle()

    def _from_worker(self, pipe: Pipe, batch: list[Any]) -> None:
        route = pipe.wire.route
        feed = self.feed
        for _, message, frames in batch:
            feed(new(FromWorker, (route, message, frames, None)))
        self.settle()

    def tell(self, event: Any) -> None:
        """Feed an event from outside the network, unless nobody is there to take it."""
        if not self.stopped:
            self.feed(event)
            self.settle()

    def feed(self, event: Any) -> None:
        """Have the core handle an event, and do what it decides."""
        now = self.scheduler.now
        actions = self._handle(now + self.offset_s, event)
        routes = self.routes
        clogs = self.clogs
        for action in actions:
            kind = type(action)
            if kind is ToClient or kind is ToWorker:
                wire = routes.get(action[0])
                if wire is None:
                    self.unsent.setdefault(action[0], []).append(action)
                elif not wire.dead:
                    wire.down.send(action[1], action[2])
                    if clogs and kind is ToClient and len(wire.down.queue) > clogs:
                        self.clogged[action[0]] = wire
            elif kind is Watch:
                self.watched[action.instance] = action
                self.world.watch(action)
            elif kind is Unwatch:
                self.watched.pop(action.instance, None)
        self.fed(self, event, actions)
        world = self.world
        kind = type(event)
        if kind is FromWorker or kind is FromClient:
            message = event[1]
            code = TYPE_CODES[type(message)]
            number = message[0]
            if type(number) is not int:
                number = len(message)
        else:
            code, number = EVENT_CODES[kind], 0
        world.trace = hash((world.trace, now, code, number, len(actions)))

    def settle(self) -> None:
        """After events: report what could not be sent, and be woken in time."""
        while self.unsent:
            unsent, self.unsent = self.unsent, {}
            for route, mail in unsent.items():
                if type(mail[0]) is ToClient:
                    self.feed(events.ClientUnreachable(route, [(each[1], each[2]) for each in mail]))
                else:
                    self.feed(events.WorkerUnreachable(route))
        if self.clogged:
            self._tell_of_clogged()
        due = self._next_wakeup()
        if due is not None:
            due += GRAIN_S - self.offset_s
            if due < self.tick_at:
                scheduler = self.scheduler
                due = max(due, scheduler.now)
                self.tick_at = due
                scheduler.number = number = scheduler.number + 1
                heappush(scheduler.heap, (due, number, self._on_tick, due))

    def _on_tick(self, due: float) -> None:
        if due == self.tick_at:
            self.tick_at = INFINITY
            if not self.stopped:
                self.wake()
                self.settle()

    def wake(self) -> None:
        """Let the core see what its time demands."""
        due = self._next_wakeup()
        if due is not None and due <= self.now:
            self.feed(events.Wakeup())

    def _tell_of_clogged(self) -> None:
        """For each client that lets too much wait, lose half of it, as a socket that is full does."""
        clogged, self.clogged = self.clogged, {}
        for route, wire in clogged.items():
            queue = wire.down.queue
            if self.routes.get(route) is wire and len(queue) > self.clogs:
                while len(queue) > self.clogs // 2:
                    queue.pop()
                self.feed(events.ClientClogged(route))

    def exited(self, instance: bytes) -> None:
        """The process of a watched worker ended: take in what it sent before, then tell the core."""
        if self.stopped:
            self.scheduler.after(0.05, self.exited, instance)
            return
        action = self.watched.get(instance)
        if action is None:
            return
        for pipe in self.world.last_words.pop(instance, ()):
            batch = pipe.drain()
            if batch:
                self._from_worker(pipe, batch)
        self.tell(events.ProcessExited(instance, self.world.records.pop(instance, None)))
