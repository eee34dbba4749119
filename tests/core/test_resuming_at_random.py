"""The three protocol states of a mesh, joined by wires that break: whatever is lost, a text is read whole and once.

Client, broker and worker are the real ones without sockets. A wire keeps the order and loses nothing but with itself.
Workers die, the broker is replaced, wires are cut, all at random; each attempt cuts its chunks in another way.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from mlx_mesh._options import options
from mlx_mesh._pending import Pending
from mlx_mesh._session import Session as ClientSession
from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.actions import ToClient, ToWorker
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_wire import MeshError, decode_header, encode_header, messages, pack_body, unpack_body
from mlx_mesh_wire.messages import Flag
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Admit, Cancel, Done, Piece
from mlx_mesh_worker.session import Session as WorkerSession
from mlx_mesh_worker.session import Vitals
from mlx_mesh_worker.session_actions import Leave, Reconnect, Send

TOKENS = 60
TEXTS = 3
FAULTS = 25
TICK_S = 0.02
STEPS_MAX = 200_000

Mail = tuple[Any, Sequence[Any]]


def passed(mail: Mail) -> Mail:
    """Return a message as it is read at the other end."""
    message, frames = mail
    return decode_header(encode_header(message)), [bytes(frame) for frame in frames]


class Wire:
    """A connection: two queues, and the name by which the broker knows its end."""

    numbers = 0

    def __init__(self) -> None:
        Wire.numbers += 1
        self.route = b"wire%d" % Wire.numbers
        self.up: deque[Mail] = deque()
        self.down: deque[Mail] = deque()


class TellingWorker:
    """Counts for each job from where its state ends, in chunks of one to four; the last token is in the result."""

    def __init__(self, mesh: Simulation, number: int) -> None:
        self.mesh = mesh
        self.instance = b"%016d" % number
        info = messages.Ready(1, 0, self.instance, f"w{number}", "h", "here", number, 1, ["generate"], [], [], 2, 0, {})
        self.session = WorkerSession(info, mesh.now, resumes=True)
        self.wire = Wire()
        self.counts: dict[Job, int] = {}
        self.left = False
        self.session.loaded(info, mesh.now)

    def obey(self) -> None:
        for action in self.session.take():
            if isinstance(action, Send):
                self.wire.up.append((action.message, action.frames))
            elif isinstance(action, Admit):
                state = action.job.state or b""
                have = list(struct.unpack(f"<{len(state) // 4}I", state))
                assert list(range(len(have))) == have
                self.counts[action.job] = len(have)
            elif isinstance(action, Cancel):
                self.counts.pop(action.job, None)
            elif isinstance(action, Reconnect):
                self.renew()
            elif isinstance(action, Leave):
                self.left = True

    def renew(self) -> None:
        self.wire = Wire()
        self.session.connected(self.mesh.now)

    def step(self, random: Random) -> None:
        for job in [job for job in self.counts if not job.blocked]:
            job.started = job.started or self.mesh.now
            first = self.counts[job]
            end = min(TOKENS - 1, first + random.randint(1, 4))
            if first < end:
                self.counts[job] = end
                self.session.outcome(self.mesh.now, Piece(job, pack_body({"tokens": list(range(first, end))})))
            else:
                del self.counts[job]
                self.session.outcome(self.mesh.now, Done(job, pack_body({"tokens": [TOKENS - 1]}), None, self.mesh.now))


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 10.0
        self.epochs = 0
        self.workers: list[TellingWorker] = []
        self.wires: dict[bytes, Wire] = {}
        self.tokens: dict[int, list[int]] = {}
        self.ends: dict[int, Any] = {}
        self.unread: deque[Pending] = deque()
        self.start_broker()
        self.client = ClientSession(b"s" * 16, "c", "here", self.random.random)
        self.client_wire = Wire()
        self.client.connected(self.now)
        self.numbers = 0
        for _ in range(2):
            self.start_worker()

    def start_broker(self) -> None:
        self.epochs += 1
        config = Config(deaths_max=10, attempts_max=1000, rejoin_s=60.0)
        self.core = Broker(config, f"epoch-{self.epochs}", self.now, "here")

    def start_worker(self) -> None:
        self.numbers += 1
        self.workers.append(TellingWorker(self, self.numbers))

    def ask(self, number: int) -> Pending:
        chosen = options(model=None, timeout=6000.0, lane="standard", at_most_once=False, wait_for_ready=True)
        call = chosen.call("generate", pack_body(number), self.random.choice([1, 4, 16]))
        read = self.tokens.setdefault(number, [])

        def done(outcome: Any, frames: Any) -> None:
            assert number not in self.ends
            self.ends[number] = outcome
            if not isinstance(outcome, MeshError):
                read.extend(unpack_body(frames)["tokens"])

        def piece(frames: Any) -> None:
            read.extend(unpack_body(frames)["tokens"])
            self.unread.append(pending)

        pending = Pending(call._replace(flags=call.flags | Flag.RESUMABLE), self.now + call.timeout_s, done, piece)
        self.client.start(self.now, pending)
        return pending

    def feed(self, event: events.Event) -> None:
        for action in self.core.handle(self.now, event):
            if isinstance(action, ToClient | ToWorker):
                self.post(action)
        self.core.check_invariants()

    def post(self, action: ToClient | ToWorker) -> None:
        living = [self.client_wire, *(worker.wire for worker in self.workers)]
        wire = next((wire for wire in living if wire.route == action.route), None)
        if wire is not None:
            wire.down.append((action.message, action.frames))
        elif isinstance(action, ToClient):
            self.feed(events.ClientUnreachable(action.route, [(action.message, action.frames)]))
        else:
            self.feed(events.WorkerUnreachable(action.route))

    def turn(self) -> None:
        """Let some time pass, in which something moves."""
        self.now += TICK_S * self.random.random()
        do = self.random.choice([self.client_hears, self.broker_hears, self.worker_hears, self.compute, self.read])
        do()
        self.chores()

    def client_hears(self) -> None:
        for _ in range(self.random.randint(1, 8)):
            if self.client_wire.down:
                self.client.message(self.now, *passed(self.client_wire.down.popleft()))

    def broker_hears(self) -> None:
        worker = self.random.choice(self.workers) if self.workers else None
        for _ in range(self.random.randint(1, 8)):
            if self.client_wire.up and self.random.random() < 0.5:
                self.feed(events.FromClient(self.client_wire.route, *passed(self.client_wire.up.popleft())))
            elif worker is not None and worker.wire.up:
                self.feed(events.FromWorker(worker.wire.route, *passed(worker.wire.up.popleft())))

    def worker_hears(self) -> None:
        for worker in self.workers:
            for _ in range(self.random.randint(0, 4)):
                if worker.wire.down:
                    worker.session.message(self.now, *passed(worker.wire.down.popleft()))
            worker.obey()

    def compute(self) -> None:
        for worker in self.workers:
            worker.step(self.random)

    def read(self) -> None:
        for _ in range(self.random.randint(0, 6)):
            if self.unread:
                self.client.read(self.now, self.unread.popleft())

    def chores(self) -> None:
        for worker in self.workers:
            worker.session.tick(self.now, lambda: Vitals(int(self.now * 1e6), (), [], {}, {}))
            worker.obey()
        if self.client.next_tick() <= self.now:
            self.client.tick(self.now)
        if self.client.reconnect:
            self.cut_client()
        self.client_wire.up.extend(self.client.outbox)
        self.client.outbox.clear()
        due = self.core.next_wakeup()
        if due is not None and due <= self.now:
            self.feed(events.Wakeup())

    def cut_client(self) -> None:
        """The client connects anew; what was on its way is lost."""
        self.client_wire = Wire()
        self.client.outbox.clear()
        self.client.connected(self.now)

    def kill_worker(self) -> None:
        victim = self.workers.pop(self.random.randrange(len(self.workers)))
        self.start_worker()
        while victim.wire.up and self.random.random() < 0.9:
            self.feed(events.FromWorker(victim.wire.route, *passed(victim.wire.up.popleft())))
        self.feed(events.ProcessExited(victim.instance, frozenset()))

    def cut_worker(self) -> None:
        """ZeroMQ makes the connection anew by itself; the worker learns of it when the broker does not know it."""
        self.random.choice(self.workers).wire = Wire()

    def replace_broker(self) -> None:
        """What the old one sent and was taken in by the wires arrives; the rest is gone with it."""
        self.start_broker()
        for wire in (self.client_wire, *(worker.wire for worker in self.workers)):
            wire.up.clear()
            Wire.numbers += 1
            wire.route = b"wire%d" % Wire.numbers


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_lost_a_text_is_read_whole_and_once(seed: int) -> None:
    mesh = Simulation(seed)
    for number in range(TEXTS):
        mesh.ask(number)
    faults = [mesh.cut_client, mesh.kill_worker, mesh.cut_worker, mesh.replace_broker]
    happen = sorted(mesh.random.randrange(20, 1200) for _ in range(FAULTS))
    for step in range(STEPS_MAX):
        mesh.turn()
        while happen and step >= happen[0]:
            happen.pop(0)
            mesh.random.choices(faults, [6, 3, 1, 1])[0]()
        if len(mesh.ends) == TEXTS:
            break
    codes = {number: getattr(end, "code", "OK") for number, end in mesh.ends.items()}
    assert dict.fromkeys(range(TEXTS), "OK") == codes
    assert {number: list(range(TOKENS)) for number in range(TEXTS)} == mesh.tokens
