"""A world: a broker, workers and clients, what happens to them, and then a time in which everything must come right."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core import events as core_events
from mlx_mesh_wire.messages import Flag
from tests.core.guard_words import CALM
from tests.sim import bodies
from tests.sim.broker import SimBroker
from tests.sim.client import EAGER, SimClient
from tests.sim.happenings import Happenings
from tests.sim.oracle import Oracle
from tests.sim.scheduler import START_S, Scheduler
from tests.sim.worker import SimWorker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.sim.party import Party
    from tests.sim.plan import Event
    from tests.sim.swarm import Swarm

LOCAL_S = 5e-5
HEALED = (5e-4, 0.0, 1)
"""Delays on one machine, up to twice that and the same for one connection, and between machines once all is well."""

HEAL_S = 600.0
"""Time after the faults in which everything outstanding must end, besides what the work itself takes."""

SETTLED_S = 15.0
"""Quiet time before the last calls, in which all that was lost must have been found again, besides ``away_s``."""

LAST_S = 30.0
"""Time within which each of the last calls must get its result."""

TAKE_BACK_S = (0.0, 5.0, 10.0, 20.0)
"""When the operator has all workers serve again; those that were out of reach need it to be said once more."""


RESTART_S = 0.5
"""Until a worker that was killed by its work, or by its operator, is started again."""


class StuckError(AssertionError):
    """Something did not end, or a call failed in a mesh where all is well."""


class World:
    """All of a simulation.

    Attributes:
        healing: the faults are over.
        asked: calls that were made; ``open`` of them have no end yet.
        records: of dead workers, what they were computing, by instance; ``last_words`` what they had sent.
        trace: folds all that happened; equal for equal seeds.
        wires, trims, poisoned: how many there were.
    """

    def __init__(self, swarm: Swarm, events: Sequence[Event]) -> None:
        self.swarm = swarm
        self.events = events
        self.scheduler = Scheduler()
        self.random = Random(f"world/{swarm.seed}")
        self.healing = False
        self.asked = self.open = 0
        self.wires = self.trims = self.poisoned = self.fed = 0
        self.trace = 0
        self.records: dict[bytes, frozenset[int]] = {}
        self.last_words: dict[bytes, Any] = {}
        self.instances: dict[bytes, SimWorker] = {}
        self.oracle = Oracle(self)
        self.broker = SimBroker(self)
        self.workers = [SimWorker(self, number) for number in range(len(swarm.workers))]
        self.clients = [SimClient(self, number) for number in range(swarm.clients)]

    @property
    def now(self) -> float:
        """Simulated seconds; each party has a clock of its own besides."""
        return self.scheduler.now

    def parties(self) -> Iterator[Party]:
        """Return workers and clients."""
        yield from self.workers
        yield from self.clients

    def run(self) -> None:
        """Let everything happen.

        Raises:
            AssertionError: a promise was broken; the message says which.
        """
        self.broker.start()
        for party in self.parties():
            party.start()
        Happenings(self).begin(self.events)
        end = START_S + self.swarm.duration_s
        if self.events:
            end = max(end, self.events[-1].time)
        self.scheduler.run(end)
        self._heal()
        self._await_all()
        self._ask_last()
        self.oracle.finished()

    def delays(self, party: Party) -> tuple[float, float, int]:
        """Return the least delay of a connection, what may be added, and the power that says how seldom it is much."""
        if self.healing:
            return HEALED
        local = party.local if isinstance(party, SimWorker) else party.number % 2 == 0
        return (LOCAL_S * (1 + party.random.random()), 0.0, 1) if local else self.swarm.delay

    def connect_s(self, party: Party) -> float:
        """Return how long it takes a party to connect."""
        return 1e-3 + 0.1 * party.random.random() ** 2

    def notice_s(self, party: Party) -> float:
        """Return how long it takes the broker to notice that a party has closed its connection."""
        return 0.0 if party.random.random() < 0.7 else 5.0

    def restart_s(self) -> float:
        """Return how long it takes until a worker that was killed by its work is started again."""
        return RESTART_S

    def close_one(self) -> None:
        """A call has ended."""
        self.open -= 1
        if self.healing and not self.open:
            self.scheduler.stopped = True

    def watch(self, action: Any) -> None:
        """The broker watches a process; it may have ended before."""
        worker = self.instances.get(action.instance)
        if worker is None or not worker.local or not self.swarm.pid_watch:
            return
        if not worker.alive or worker.instance != action.instance:
            self.scheduler.after(0.002, self.broker.exited, action.instance)

    def _heal(self) -> None:
        """End all faults."""
        self.oracle.phase("heal")
        self.healing = True
        self.broker.start()
        self.broker.forget_dead()
        if self.broker.stopped:
            self.broker.resume()
        for party in self.parties():
            if not party.alive:
                party.start()
            if party.stopped:
                party.resume()
            wire = party.wire
            for pipe in (wire.up, wire.down):
                pipe.base_s, pipe.spread_s, pipe.power = HEALED
                if wire.opened and pipe.held:
                    pipe.release()
        known = self.broker.core._state.workers
        for worker in self.workers:
            there = known.get(worker.wire.route)
            if there is not None and there.info.instance != worker.instance:
                worker.die(RESTART_S)  # It said itself that it is somebody else, and is believed until it ends.
            worker.slow = 1.0
            if worker.engine.frozen:
                worker.engine.thaw()
        for client in self.clients:
            client.read_all()
        for after_s in TAKE_BACK_S:
            self.scheduler.after(after_s, self._take_back)

    def _take_back(self, _: Any) -> None:
        self.broker.tell(core_events.Drain("*", False))
        if "guard" in self.swarm.on:
            self.broker.tell(core_events.GuardTold(CALM, ""))

    def _await_all(self) -> None:
        """Let the rest of the work be done."""
        swarm = self.swarm
        if self.open:
            self.scheduler.run(self.now + HEAL_S + 2 * swarm.load * swarm.duration_s)
        if self.open:
            left = [call.number for client in self.clients for call in client.calls.values()]
            raise StuckError(f"liveness: {self.open} calls never ended: {left[:10]}")

    def _ask_last(self) -> None:
        """Whoever asks now is answered."""
        swarm = self.swarm
        self.scheduler.run(self.now + SETTLED_S + self.broker.config.away_s)
        served = [(op, model) for worker in swarm.workers for op in worker.ops for model in worker.models or ("",)]
        number = 1_000_000
        for client in self.clients:
            op, model = served[number % len(served)]
            kind, window = (bodies.TEXT, 4) if op == "text" else (bodies.PLAIN, 0)
            number += 1
            spec = (number, op, model, 1, LAST_S, Flag.WAIT_FOR_READY, window, b"", number, 0.001, kind, EAGER)
            call = client.ask(spec)
            self.scheduler.run(self.now + LAST_S + 1.0)
            if call is None or type(call.outcome) is not bodies.Final:
                raise StuckError(
                    f"liveness: a call of client {client.number} on {op} {model} after healing: "
                    f"{call and call.outcome!r}"
                )
