"""Lanes pause, workers are drained, taken back, trimmed, leave and die, all at random: all is answered, and once."""

from __future__ import annotations

from random import Random

import pytest

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_wire import messages, pack_body
from mlx_mesh_wire.guard_report import PAUSES
from mlx_mesh_wire.messages import Flag, Lane
from tests.core.guard_words import CALM
from tests.core.harness import Harness, Worker
from tests.core.test_resuming_at_random import STEPS_MAX, TEXTS, TOKENS, Simulation, TellingWorker, passed

LANES = (Lane.INTERACTIVE, Lane.STANDARD, Lane.BULK)
STEPS = 400
ENDS = {"OK", "DEADLINE_EXCEEDED", "CANCELLED", "POISON_REQUEST", "WORKER_LOST", "OVERLOADED"}


class Fleet:
    """Workers of this machine and of another, which share computations, and one client."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.mesh = Harness(
            client_max_outstanding=1000, queue_max_requests=24, beat_s=60.0, suspect_s=999.0, cache_max_bytes=0
        )
        self.client = self.mesh.client()
        self.numbers = 0
        self.workers = [self.started() for _ in range(4)]
        self.held: list[tuple[Worker, messages.Job]] = []
        self.asked: list[int] = []
        self.answers: dict[int, str] = {}

    def started(self) -> Worker:
        self.numbers += 1
        number, machine = self.numbers, self.chance.choice(["here", "elsewhere"])
        loading = self.chance.random() < 0.3
        return self.mesh.worker(
            f"w{number}", slots=1 + number % 4, bulk_slots=number % 3, machine=machine, pure=["echo"], loading=loading
        )

    def look(self) -> None:
        """Take what came: one answer a request, and no job for a worker that does not take any."""
        for number, code in self.client.answers().items():
            assert number not in self.answers
            self.answers[number] = code
        for worker in self.workers:
            for message, _ in worker.take():
                if isinstance(message, messages.Job):
                    self.held.append((worker, message))
                elif isinstance(message, messages.Cancel):
                    self.held = [each for each in self.held if each[1].job_id != message.id]

    def ask(self) -> None:
        self.asked.append(
            self.client.request(
                lane=self.chance.choice(LANES),
                flags=self.chance.choice([Flag.WAIT_FOR_READY] * 3 + [Flag.WAIT_FOR_READY | Flag.AT_MOST_ONCE]),
                affinity=self.chance.choice([b"", b"a", b"b"]),
                ms=self.chance.choice([2000, 60_000, 60_000]),
                body=pack_body(self.chance.randrange(6)),
            )
        )

    def cancel(self) -> None:
        self.client.say(messages.Cancel(self.chance.choice([*(set(self.asked) - set(self.answers)), 1])))

    def supervise(self) -> None:
        """Do what a guard or an operator may."""
        name = self.chance.choice(["*", *(f"w{self.numbers - back}" for back in range(4))])
        self.mesh.feed(
            self.chance.choice(
                [
                    events.GuardTold(CALM, self.chance.choice(PAUSES)),
                    events.Drain(name, self.chance.random() < 0.4, self.chance.choice(["guard", "operator"])),
                    events.TrimWorkers(name, self.chance.randrange(3)),
                    events.HeldUp(self.chance.random() * 3),
                ]
            )
        )

    def work(self) -> None:
        if self.held:
            worker, job = self.held.pop(self.chance.randrange(len(self.held)))
            if self.chance.random() < 0.2:
                worker.say(messages.Return(job.job_id, ""))
            else:
                worker.finish(job)

    def tell(self) -> None:
        """Have a worker say something of itself."""
        worker = self.chance.choice(self.workers)
        draining = self.chance.random() < 0.3
        say = [lambda: worker.beat(draining=draining), lambda: worker.say(messages.Quiet(draining)), worker.returning]
        self.chance.choice(say)()

    def die(self) -> None:
        worker = self.workers.pop(self.chance.randrange(len(self.workers)))
        if self.chance.random() < 0.5:
            worker.say(messages.Bye(""))
        else:
            worker.die([job.job_id for each, job in self.held if each is worker][:1])
        self.held = [each for each in self.held if each[0] is not worker]
        self.workers.append(self.started())

    def wait(self) -> None:
        self.mesh.advance(self.chance.choice([0.1, 0.5, 6.0]))


@pytest.mark.parametrize("seed", range(30))
def test_all_is_answered_once_and_nothing_waits_when_calm_is_back(seed: int) -> None:
    fleet = Fleet(seed)
    happen = [fleet.ask, fleet.work, fleet.supervise, fleet.tell, fleet.cancel, fleet.wait, fleet.die]
    for _ in range(STEPS):
        fleet.chance.choices(happen, [12, 8, 4, 2, 2, 1, 0.5])[0]()
        fleet.look()
    fleet.mesh.feed(events.GuardTold(CALM, ""))
    for worker in fleet.workers:
        worker.returning()
    fleet.look()
    while fleet.held:
        worker, job = fleet.held.pop()
        worker.finish(job)
        fleet.look()
    assert set(fleet.asked) == set(fleet.answers)
    assert set(fleet.answers.values()) <= ENDS


class Supervised(Simulation):
    """The same mesh of three real sessions, with a guard and an operator, and no request that is tried for ever."""

    def start_broker(self) -> None:
        self.epochs += 1
        self.core = Broker(Config(deaths_max=10, rejoin_s=60.0), f"epoch-{self.epochs}", self.now, "here")

    def turn(self) -> None:
        super().turn()
        for worker in [worker for worker in self.workers if worker.left]:
            self.end(worker)

    def post_told(self) -> None:
        self.feed(events.GuardTold(CALM, self.random.choice(PAUSES)))

    def drain(self) -> None:
        by = self.random.choice(["guard", "operator"])
        self.feed(events.Drain(f"w{self.numbers - self.random.randrange(2)}", True, by))

    def take_back(self) -> None:
        self.feed(events.Drain("*", False))

    def trim(self) -> None:
        self.feed(events.TrimWorkers("*", self.random.randrange(3)))

    def leave(self) -> None:
        """A worker is told to stop, and another one comes."""
        self.random.choice(self.workers).session.drain(self.now)
        self.start_worker()

    def end(self, worker: TellingWorker) -> None:
        self.workers.remove(worker)
        while worker.wire.up:
            self.feed(events.FromWorker(worker.wire.route, *passed(worker.wire.up.popleft())))
        self.feed(events.ProcessExited(worker.instance, frozenset()))


@pytest.mark.parametrize("seed", range(25))
def test_a_text_is_read_whole_and_once_whatever_guard_and_operator_do(seed: int) -> None:
    mesh = Supervised(seed)
    for number in range(TEXTS):
        mesh.ask(number)
    faults = [mesh.cut_client, mesh.kill_worker, mesh.cut_worker, mesh.replace_broker]
    doings = [mesh.post_told, mesh.drain, mesh.take_back, mesh.trim, mesh.leave]
    happen = sorted(mesh.random.randrange(20, 1200) for _ in range(40))
    for step in range(STEPS_MAX):
        mesh.turn()
        while happen and step >= happen[0]:
            happen.pop(0)
            mesh.random.choices([*faults, *doings], [3, 2, 1, 1, 3, 4, 5, 1, 3])[0]()
            if not happen:
                mesh.take_back()
        if len(mesh.ends) == TEXTS:
            break
    assert dict.fromkeys(range(TEXTS), "OK") == {n: getattr(end, "code", "OK") for n, end in mesh.ends.items()}
    assert {number: list(range(TOKENS)) for number in range(TEXTS)} == mesh.tokens
