"""What a queued request costs, and that nothing of it is left once it is answered."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.actions import ToWorker
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_wire import decode_header, encode_header, messages

REQUESTS = 10_000
REQUESTS_PER_LIFE = 3_000
PER_CLIENT = 50
BODY_BYTES = 64
COST_MAX_BYTES = 2048
"""What the documentation promises for a queued request, besides its body."""

READY = messages.Ready(1, 0, b"i" * 16, "w", "host", "m", 7, 1, ["op"], [], [], 1, 0, {})


class Run:
    """A core that keeps nothing of what it does but the last job."""

    def __init__(self) -> None:
        self.now = 100.0
        self.core = Broker(Config(queue_max_requests=10**6), "epoch", self.now, "m")
        self.jobs: list[int] = []

    def feed(self, event: events.Event) -> None:
        for action in self.core.handle(self.now, event):
            if isinstance(action, ToWorker) and isinstance(action.message, messages.Job):
                self.jobs.append(action.message.job_id)

    def client(self, number: int, message: messages.Message, *frames: bytes) -> None:
        """Say something as a client; every message is decoded anew, as from a socket."""
        decoded = decode_header(encode_header(message))
        assert decoded is not None
        self.feed(events.FromClient(b"route%05d" % number, decoded, frames))

    def worker(self, message: messages.Message, *frames: bytes) -> None:
        self.feed(events.FromWorker(b"worker", message, frames))

    def greet(self, clients: int) -> None:
        for number in range(clients):
            self.client(number, messages.Hello(1, 0, b"session%09d" % number, "c", ""))

    def ask(self, count: int) -> None:
        """Queue so many requests, with deadlines that differ."""
        for place in range(count):
            client, number = divmod(place, PER_CLIENT)
            message = messages.Request(number + 1, "op", "", place % 3, 30_000 + place, 0, 0, b"", "")
            self.client(client, message, place.to_bytes(BODY_BYTES, "big"))

    def tick(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.core.next_wakeup()) is not None and due <= end:
            self.now = max(self.now, due)
            self.worker(messages.Beat(1, 0, False, [], [], {}, {}))
            self.feed(events.Wakeup())
        self.now = end

    def waiting(self) -> int:
        return sum(sum(queue["waiting"].values()) for queue in self.core.status(self.now)["queues"])


def answered(run: Run) -> None:
    while run.jobs:
        run.worker(messages.Final(run.jobs.pop(), 1, 0, 0, 0), b"\x01")


def cancelled(run: Run) -> None:
    for place in range(REQUESTS_PER_LIFE):
        client, number = divmod(place, PER_CLIENT)
        run.client(client, messages.Cancel(number + 1))


def expired(run: Run) -> None:
    run.tick(60.0)


def abandoned(run: Run) -> None:
    for number in range(REQUESTS // PER_CLIENT):
        run.client(number, messages.Bye("gone"))


def orphaned(run: Run) -> None:
    run.worker(messages.Bye("leaves"))
    run.tick(60.0)


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Return what is allocated now, in bytes."""

    def measure() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    yield measure
    tracemalloc.stop()


def prepared() -> Run:
    run = Run()
    run.worker(READY)
    run.greet(REQUESTS // PER_CLIENT)
    return run


@pytest.mark.slow
def test_a_queued_request_costs_at_most_what_is_promised(traced: Callable[[], int]) -> None:
    run = prepared()
    before = traced()
    run.ask(REQUESTS)
    each = (traced() - before) / REQUESTS - BODY_BYTES
    assert run.waiting() == REQUESTS - 2  # one computed, one prefetched
    print(f"a queued request costs {each:.0f} bytes besides its body")
    assert 100 < each <= COST_MAX_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("end", [answered, cancelled, expired, abandoned, orphaned], ids=lambda end: end.__name__)
def test_nothing_of_a_request_is_left_once_it_has_ended(traced: Callable[[], int], end: Callable[[Run], None]) -> None:
    run = prepared()

    def life() -> None:
        run.greet(REQUESTS_PER_LIFE // PER_CLIENT)
        run.worker(READY)
        run.ask(REQUESTS_PER_LIFE)
        end(run)
        run.jobs.clear()
        assert run.waiting() == 0
        assert run.core.metrics.accepted == run.core.metrics.answered
        run.tick(300.0)  # Whatever was put off, timers included, has been done by then.

    life()
    before = traced()
    for _ in range(2):
        life()
    left = traced() - before
    run.core.check_invariants()
    # A list or table of 6,000 entries would take 48,000 bytes and more.
    assert left < 30_000, f"{left} bytes are left"


@pytest.mark.slow
def test_sessions_and_workers_that_are_gone_leave_nothing(traced: Callable[[], int]) -> None:
    run = Run()

    def crowd(turn: int) -> None:
        for number in range(500):
            name = b"%08d%08d" % (turn, number)
            run.feed(events.FromClient(name, messages.Hello(1, 0, name, "c", ""), ()))
            run.feed(events.FromWorker(b"w" + name, READY._replace(instance=name, ops=[f"op{number % 4}"]), ()))
            run.feed(events.FromClient(name, messages.Request(1, "nobody", "", 1, 1000, 2, 0, b"k", ""), (b"x",)))
        run.tick(300.0)
        assert not run.core.status(run.now)["workers"]
        assert not run.core.status(run.now)["clients"]

    # The first fills what has a bound, such as the outdated entries of the pools.
    crowd(0)
    before = traced()
    crowd(1)
    crowd(2)
    assert traced() - before < 50_000
