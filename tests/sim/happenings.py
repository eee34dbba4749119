"""Planned events, and what each of them does to a world."""

from __future__ import annotations

from heapq import heappush
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core import events
from mlx_mesh_wire import messages
from tests.core.guard_words import CALM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sim.plan import Event
    from tests.sim.world import World


class Happenings:
    """Makes events happen at their times."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scheduler = world.scheduler
        self.events: Sequence[Event] = ()
        self.do: dict[str, Callable[..., Any]] = {
            name: getattr(self, name)
            for name in (
                "cancel", "cut", "stall", "crash", "leave", "broker_crash", "vanish", "pause", "jump",
                "freeze", "slow", "forge", "reload", "usurp", "garbage", "drain", "guard", "trim",
            )
        }  # fmt: skip

    def begin(self, planned: Sequence[Event]) -> None:
        """Have these happen, which are in order of time."""
        self.events = planned
        if planned:
            self.scheduler.at(planned[0].time, self._next, 0)

    def _next(self, index: int) -> None:
        _, kind, args = self.events[index]
        index += 1
        if index < len(self.events):
            scheduler = self.scheduler
            scheduler.number = number = scheduler.number + 1
            heappush(scheduler.heap, (self.events[index][0], number, self._next, index))
        if kind == "call":  # Nearly all are calls.
            self.world.clients[args[0]].ask(args[1:])
        else:
            self.do[kind](*args)

    def party(self, role: str, number: int) -> Any:
        """Return a party, or the broker."""
        if role == "broker":
            return self.world.broker
        return (self.world.workers if role == "worker" else self.world.clients)[number]

    def cancel(self, client: int, number: int) -> None:
        """Somebody loses interest."""
        self.world.clients[client].cancel(number)

    def cut(self, role: str, number: int, connect_s: float, notice_s: float, lost: tuple[bool, bool]) -> None:
        """A connection is lost; ZeroMQ makes another one, and the session is not told."""
        party = self.party(role, number)
        if party.alive:
            party.renew(0.001 + connect_s, notice_s=notice_s, up_arrives=not lost[0], down_arrives=not lost[1])

    def stall(self, role: str, number: int, direction: str, seconds: float, lost: bool) -> None:
        """Nothing gets through one way; afterwards it arrives late, or the connection is lost."""
        party = self.party(role, number)
        wire = party.wire
        if party.alive and wire.opened and not wire.dead:
            getattr(wire, direction).held = True
            self.scheduler.after(seconds, self._stalled, (party, wire, direction, lost))

    def _stalled(self, stalled: Any) -> None:
        party, wire, direction, lost = stalled
        if lost and party.alive and party.wire is wire and not self.world.healing:
            party.renew(0.01, up_arrives=direction != "up", down_arrives=direction != "down")
        getattr(wire, direction).release()

    def crash(self, worker: int, restart_s: float, notice_s: float, up_arrives: bool) -> None:
        """A worker dies."""
        recorded = self.world.swarm.recorder
        self.world.workers[worker].die(restart_s, notice_s, up_arrives, recorded)

    def leave(self, worker: int, restart_s: float) -> None:
        """A worker is told to leave."""
        self.world.workers[worker].terminate(restart_s)

    def broker_crash(self, down_s: float, reconnect_s: float, down_arrives: bool) -> None:
        """The broker dies."""
        self.world.broker.die(0.001 + down_s, reconnect_s, down_arrives)

    def vanish(self, client: int, restart_s: float, notice_s: float, politely: bool) -> None:
        """A client goes away."""
        self.world.clients[client].vanish(restart_s, notice_s, politely)

    def pause(self, role: str, number: int, seconds: float) -> None:
        """A process is stopped for a while."""
        party = self.party(role, number)
        if not party.stopped and (role == "broker" or party.alive):
            party.pause(seconds)

    def jump(self, role: str, number: int, seconds: float) -> None:
        """A party sees its clock leap."""
        party = self.party(role, number)
        if role == "broker":
            if not party.down:
                party.jump(seconds)
            return
        party.offset_s += seconds
        if party.alive and not party.stopped:
            party.tick_at = float("inf")
            if role == "client" or party.announced:
                party.arm()

    def freeze(self, worker: int, seconds: float) -> None:
        """A worker beats and computes nothing."""
        party = self.world.workers[worker]
        if party.alive and not party.engine.frozen:
            party.engine.frozen = True
            self.scheduler.after(seconds, self._thaw, (party, party.lives))

    def _thaw(self, frozen: Any) -> None:
        party, lives = frozen
        if party.alive and party.lives == lives:
            if party.stopped:
                party.engine.frozen = False
            else:
                party.engine.thaw()

    def slow(self, worker: int, factor: float, seconds: float) -> None:
        """A worker takes longer for everything."""
        self.world.workers[worker].slow = factor
        self.scheduler.after(seconds, self._quick, worker)

    def _quick(self, worker: int) -> None:
        self.world.workers[worker].slow = 1.0

    def forge(self, worker: int, what: int, number: int) -> None:
        """A worker says what is not true."""
        jobs = [job for each in self.world.workers if each.alive for job in each.session.jobs]
        self.world.workers[worker].forge(what, number, jobs)

    def reload(self, worker: int, seconds: float) -> None:
        """A worker loads once more, as one of another make may: in the midst of its work it says LOADING."""
        party = self.world.workers[worker]
        if party.alive and party.session.ready and not party.leaving:
            party.wire.up.send(messages.Loading(*party.info()), ())
            self.scheduler.after(seconds, self._reloaded, (party, party.lives))

    def _reloaded(self, reloading: Any) -> None:
        party, lives = reloading
        if party.alive and party.lives == lives:
            if party.stopped:
                self.scheduler.after(0.1, self._reloaded, reloading)
                return
            party.session.connected(party.now)
            party.flush()

    def usurp(self, worker: int, number: int) -> None:
        """Another process takes over the connection of a worker."""
        party = self.world.workers[worker]
        if party.alive and party.session.ready and not party.session.draining:
            usurper = b"usurper%09d" % number
            ready = party.info()._replace(instance=usurper, name=f"u{number}", pid=1_000_000_000 + number)
            party.wire.up.send(ready, ())

    def garbage(self, role: str, number: int, request_id: int) -> None:
        """Something arrives that is no message."""
        wire = self.party(role, number).wire
        if wire is None or not wire.opened or wire.dead:
            return
        if role == "client":
            self.world.broker.tell(events.BadClientMessage(wire.route, "garbage", request_id, "PROTOCOL_ERROR"))
        else:
            self.world.broker.tell(events.BadWorkerMessage(wire.route, "garbage"))

    def drain(self, name: str, on: bool, by: str) -> None:
        """An operator or the guard drains, or takes back."""
        self.world.broker.tell(events.Drain(name, on, by))

    def guard(self, pause: str) -> None:
        """The guard reports."""
        self.world.broker.tell(events.GuardTold(CALM, pause))

    def trim(self, name: str, level: int) -> None:
        """The guard wants memory back."""
        self.world.broker.tell(events.TrimWorkers(name, level))
