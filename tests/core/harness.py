"""A broker core with a clock that jumps, and peers of a few lines each. Invariants are checked after every event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.actions import Log, ToClient, ToWorker, Unwatch, Watch
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_wire import messages, pack_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_broker.core.quotas import Holder

BODY = pack_body("body")


class Harness:
    def __init__(self, *, bereft: bool = False, **config: Any) -> None:
        self.now = 100.0
        self.core = Broker(Config(**config), "epoch-1", self.now, "here", bereft=bereft)
        self.to_clients: dict[bytes, list[tuple[Any, Sequence[bytes]]]] = {}
        self.to_workers: dict[bytes, list[tuple[Any, Sequence[bytes]]]] = {}
        self.logs: list[Log] = []
        self.watched: dict[bytes, Watch] = {}

    def feed(self, event: events.Event) -> None:
        for action in self.core.handle(self.now, event):
            if isinstance(action, ToClient):
                self.to_clients.setdefault(action.route, []).append((action.message, action.frames))
            elif isinstance(action, ToWorker):
                self.to_workers.setdefault(action.route, []).append((action.message, action.frames))
            elif isinstance(action, Watch):
                self.watched[action.instance] = action
            elif isinstance(action, Unwatch):
                self.watched.pop(action.instance, None)
            else:
                self.logs.append(action)
        self.core.check_invariants()

    def advance(self, seconds: float) -> None:
        """Let time pass, waking the core whenever it asks for it."""
        end = self.now + seconds
        while (due := self.core.next_wakeup()) is not None and due <= end:
            self.now = max(self.now, due)
            self.feed(events.Wakeup())
        self.now = end

    def client(self, name: str = "c", *, last_epoch: str = "", holder: Holder | None = None) -> Client:
        return Client(self, name, last_epoch, holder)

    def worker(self, name: str = "w", **kwargs: Any) -> Worker:
        return Worker(self, name, **kwargs)

    def logged(self, event: str) -> bool:
        return any(log.event == event for log in self.logs)

    @property
    def counts(self) -> Any:
        return self.core.metrics.counts


class Client:
    def __init__(self, harness: Harness, name: str, last_epoch: str = "", holder: Holder | None = None) -> None:
        self.harness = harness
        self.holder = holder
        self.session = name.encode().ljust(16, b"-")
        self.route = b"route-" + name.encode()
        self.name = name
        self.ids = 0
        self.hello(last_epoch)

    def hello(self, last_epoch: str = "") -> None:
        self.say(messages.Hello(1, 0, self.session, self.name, last_epoch))

    def say(self, message: Any, frames: Sequence[bytes] = ()) -> None:
        self.harness.feed(events.FromClient(self.route, message, frames, self.holder))

    def request(
        self,
        op: str = "echo",
        *,
        model: str = "",
        lane: int = 1,
        ms: int = 60_000,
        flags: int = 0,
        window: int = 0,
        affinity: bytes = b"",
        body: Sequence[bytes] = BODY,
        request_id: int = 0,
    ) -> int:
        if not request_id:
            self.ids += 1
            request_id = self.ids
        self.say(messages.Request(request_id, op, model, lane, ms, flags, window, affinity, ""), body)
        return request_id

    def take(self) -> list[tuple[Any, Sequence[bytes]]]:
        """Return and forget what came for this client."""
        return self.harness.to_clients.pop(self.route, [])

    def answers(self) -> dict[int, str]:
        """Return the outcome by request id of what came since the last look."""
        found: dict[int, str] = {}
        for message, _ in self.take():
            if isinstance(message, messages.Final):
                assert message.id not in found
                found[message.id] = "OK"
            elif isinstance(message, messages.Error) and message.id:
                assert message.id not in found
                found[message.id] = message.code
        return found


class Worker:
    numbers = 0

    def __init__(
        self,
        harness: Harness,
        name: str,
        *,
        ops: Sequence[str] = ("echo",),
        pure: Sequence[str] = (),
        models: Sequence[str] = (),
        slots: int = 1,
        machine: str = "here",
        loading: bool = False,
        load_max_ms: int = 0,
        held: Sequence[tuple[bytes, int]] = (),
        versions: dict[str, str] | None = None,
        bulk_slots: int = 0,
        holder: Holder | None = None,
    ) -> None:
        Worker.numbers += 1
        self.harness = harness
        self.holder = holder
        self.route = b"route-" + name.encode()
        self.pid = 1000 + Worker.numbers
        self.instance = (name + str(Worker.numbers)).encode().ljust(16, b"-")
        self.fields: tuple[Any, ...] = (
            1, 0, self.instance, name, "host", machine, self.pid, 7, list(ops), list(pure), list(models), slots,
            load_max_ms, versions or {}, bulk_slots,
        )  # fmt: skip
        self.progress = 0
        self.returning(held, loading=loading)

    def returning(self, held: Sequence[tuple[bytes, int]] = (), *, loading: bool = False) -> None:
        if held:
            self.say(messages.Held(self.instance, [[session, request_id, 1] for session, request_id in held]))
        self.say((messages.Loading if loading else messages.Ready)(*self.fields))

    def describe(self, **changes: Any) -> None:
        """Say LOADING or READY with something else in it from now on."""
        self.fields = tuple(messages.Ready(*self.fields)._replace(**changes))

    def say(self, message: Any, frames: Sequence[bytes] = ()) -> None:
        self.harness.feed(events.FromWorker(self.route, message, frames, self.holder))

    def take(self) -> list[tuple[Any, Sequence[bytes]]]:
        return self.harness.to_workers.pop(self.route, [])

    def jobs(self) -> list[messages.Job]:
        """Return the jobs that came since the last look."""
        return [message for message, _ in self.take() if isinstance(message, messages.Job)]

    def finish(self, *jobs: messages.Job, body: Sequence[bytes] = BODY) -> None:
        for job in jobs:
            self.say(messages.Final(job.job_id, job.attempt, 5, 50, 0), body)

    def beat(
        self,
        *,
        moved: bool = True,
        draining: bool = False,
        running: Sequence[int] = (),
        warm: Sequence[str] = (),
        **counters: int,
    ) -> None:
        self.progress += moved
        self.say(messages.Beat(self.progress, 0, draining, list(running), list(warm), {"rss": 1}, counters))

    def die(self, running: Sequence[int] | None = ()) -> None:
        self.harness.feed(events.ProcessExited(self.instance, None if running is None else frozenset(running)))


def stream(mesh: Harness, worker: Worker, *, window: int = 4) -> tuple[Client, messages.Job]:
    """Return a client whose request 1 is a stream without a chunk yet, and its job."""
    client = mesh.client()
    client.request(window=window, ms=600_000)
    (job,) = worker.jobs()
    client.take()
    return client, job


def ping_until(mesh: Harness, seconds: float, *peers: Client | Worker) -> None:
    """Let time pass while these peers say something twice a second."""
    for _ in range(round(seconds * 2)):
        mesh.advance(0.5)
        for peer in peers:
            peer.say(messages.Ping(1))
