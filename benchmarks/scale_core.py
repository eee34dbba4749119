"""One core, filled once and driven by events when asked: ``python -m benchmarks.scale_core WORKERS QUEUED``.

For every line ``REQUESTS`` on standard input it answers with the nanoseconds that a request cost: one REQUEST comes
in, one FINAL comes in, and the core admits, dispatches and answers. A process of its own keeps the garbage collector
from looking at anybody else's queue.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections import deque

from mlx_mesh_broker.core.actions import ToWorker
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_broker.core.events import FromClient, FromWorker, Wakeup
from mlx_mesh_broker.main import GC_THRESHOLD
from mlx_mesh_wire import messages

CLIENTS = 8
SLOTS = 4
STEP_S = 20e-6
"""Time that passes in the core's own clock for each request: 50,000 requests/s."""

REMAINING_MS = 7 * 24 * 3600 * 1000
BODY_BYTES = 100
LIMITS = Config(
    queue_max_requests=10**7,
    queue_max_bytes=10**12,
    client_max_outstanding=10**7,
    client_max_request_bytes=10**12,
    requests_max_bytes=10**12,
)


class Core:
    """A broker's core with workers that are all busy and a queue behind them."""

    def __init__(self, workers: int, queued: int) -> None:
        self._now = 0.0
        self._broker = Broker(LIMITS, "epoch", 0.0)
        self._held: deque[ToWorker] = deque()
        self._requests = 0
        for client in range(CLIENTS):
            hello = messages.Hello(1, 0, b"session %8d" % client, f"client {client}", "")
            self._broker.handle(0.0, FromClient(b"c%d" % client, hello, ()))
        for number in range(workers):
            self._broker.handle(0.0, FromWorker(b"w%d" % number, _ready(number), ()))
        for _ in range(workers * (SLOTS + LIMITS.prefetch) + queued):
            self.request()
        assert len(self._held) == workers * (SLOTS + LIMITS.prefetch), "the workers are not full"

    def request(self) -> None:
        """A client asks for something."""
        self._requests += 1
        route = b"c%d" % (self._requests % CLIENTS)
        message = messages.Request(self._requests, "echo", "", 1, REMAINING_MS, 0, 0, b"", "")
        for action in self._broker.handle(self._now, FromClient(route, message, (bytes(BODY_BYTES),))):
            if type(action) is ToWorker:
                self._held.append(action)

    def answer(self) -> None:
        """The worker that has waited longest finishes a job."""
        job = self._held.popleft()
        final = messages.Final(job.message.job_id, 1, 0, 0, 0)  # type: ignore[union-attr]
        for action in self._broker.handle(self._now, FromWorker(job.route, final, (b"result",))):
            if type(action) is ToWorker:
                self._held.append(action)

    def drive(self, requests: int) -> float:
        """Return the nanoseconds of a request."""
        held = len(self._held)
        began = time.perf_counter_ns()
        for _ in range(requests):
            self._now += STEP_S
            due = self._broker.next_wakeup()
            if due is not None and due <= self._now:
                self._broker.handle(self._now, Wakeup())
            self.answer()
            self.request()
        took = time.perf_counter_ns() - began
        assert held == len(self._held), "the core lost jobs"
        return took / requests


def _ready(number: int) -> messages.Ready:
    instance = b"instance%8d" % number
    return messages.Ready(
        1, 0, instance, f"w{number}", "host", "machine", number + 1, 1, ["echo"], [], [], SLOTS, 0, {}
    )


def settle_collector() -> None:
    """Set the garbage collector as the broker's program does before it serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 50)


def bytes_per_queued(queued: int) -> float:
    """Return the memory that a waiting request takes besides its body."""
    few = Core(2, 0)
    tracemalloc.start()
    many = Core(2, queued)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del few, many
    return taken / queued - sys.getsizeof(bytes(BODY_BYTES))


def main(workers: int, queued: int) -> None:
    """Answer each line with a measurement; the line ``memory`` with bytes per queued request."""
    settle_collector()
    core = Core(workers, queued)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        found = bytes_per_queued(queued) if line.strip() == "memory" else core.drive(int(line))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
