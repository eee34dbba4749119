"""Whatever frames peers send to a broker in use, in any order and time, its core refuses or takes them, stays free of
contradictions, and says only what fits into messages.

A tape is a life of one broker: each step is a message of one of three clients or workers, alone or bundled, or raw
frames; or time, a death, an operator or a guard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlx_mesh_broker.core import events
from mlx_mesh_broker.core.actions import ToClient, ToWorker
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.config import Config
from mlx_mesh_broker.core.quotas import STRANGER, Holder, Role
from mlx_mesh_wire import DecodeError, ProtocolError, encode_header, messages
from mlx_mesh_wire.bundle import bundles, deliver
from mlx_mesh_wire.guard_report import PAUSES
from mlx_mesh_wire.header import salvage_request_id
from mlx_mesh_wire.messages import Lane
from tests.core.guard_words import CALM
from tests.fuzz import scripts
from tests.fuzz.tape import Tape

STEPS_MAX = 96
WAKEUPS_MAX = 10_000
"""More in one jump of the clock and the core would keep its shell from sleeping."""

CONFIGS = (
    Config(),
    Config(
        queue_max_requests=3, client_max_outstanding=2, queue_max_bytes=9000, client_max_bytes=6000, prefetch=0,
        client_max_request_bytes=9000, requests_max_bytes=40_000, cache_max_bytes=4000, attempts_max=2, deaths_max=1,
        quarantine_s=20,
    ),
)  # fmt: skip
PAUSES_S = (0.0, 0.01, 0.5, 1.5, 3.0, 5.5, 10.5, 31.0, 65.0, 130.0)
CLIENTS = (b"c1", b"c2", b"c3", b"k1", b"k2")
WORKERS = (b"w1", b"w2", b"w3", b"k3")
HOLDERS = {
    b"k1": Holder("a", Role.CLIENT, 1.0, 2, 1, frozenset({Lane.BULK}), frozenset({"echo"}), frozenset({"", "m"})),
    b"k2": STRANGER,
    b"k3": Holder("b", Role.WORKER, ops=frozenset({"echo"})),
}
"""Who holds the keys of connections that have some."""


class Life:
    """One broker and the way its shell feeds it."""

    def __init__(self, tape: Tape) -> None:
        self.now = 100.0
        self._tape = tape
        self._core = Broker(tape.pick(CONFIGS), "epoch-1", self.now, "here")
        self._core.record_requests = tape.byte() % 2 == 1
        self.fed = 0
        self._steps: tuple[Callable[[], None], ...] = (
            *(self._client_says,) * 6, *(self._worker_says,) * 6, self._client_bundle, self._worker_bundle,
            self._raw, *(self._wait,) * 2, self._unreachable, self._exited, self._operator, self._guard, self._odd,
        )  # fmt: skip
        for route, session in zip(CLIENTS[:2], scripts.SESSIONS, strict=False):
            self._frames(events.FromClient, route, messages.Hello(1, 0, session, "c", ""), ())
        for number, route in enumerate(WORKERS[:2]):
            ready = messages.Ready(
                1, 0, scripts.SESSIONS[number], scripts.NAMES[number], "h", ("here", "there")[number], 1000 + number, 7,
                ["echo", "slow"], ["slow"], [[], ["m"]][number], 2, 0, {"mlx_mesh": "1"}, number,
            )  # fmt: skip
            self._frames(events.FromWorker, route, ready, ())

    def live(self) -> None:
        """Take steps until the tape ends."""
        for _ in range(STEPS_MAX):
            if not self._tape.left:
                break
            self._tape.pick(self._steps)()
        self._core.status(self.now)
        self._core.take_records()
        self._core.check_invariants()

    def _feed(self, event: events.Event) -> None:
        self.fed += type(event) is not events.Wakeup
        for action in self._core.handle(self.now, event):
            if type(action) in (ToClient, ToWorker):
                list(bundles([action[1:]]))  # type: ignore[list-item]

    def _take(self, event: Callable[..., Any], route: bytes, parts: Sequence[bytes]) -> None:
        """Do as the shell does."""

        def hear(route: bytes, message: Any, frames: Sequence[bytes]) -> None:
            self._feed(event(route, message, frames, HOLDERS.get(route)))

        def refuse(route: bytes, error: DecodeError, header: bytes) -> None:
            if event is events.FromClient:
                wrong = events.BadClientMessage(route, error.message, salvage_request_id(header), "PROTOCOL_ERROR")
                self._feed(wrong)
            else:
                self._feed(events.BadWorkerMessage(route, error.message))

        deliver(route, parts, hear, refuse)

    def _frames(self, event: Callable[..., Any], route: bytes, message: Any, frames: Sequence[bytes]) -> None:
        try:
            header = encode_header(message)
        except ProtocolError:
            return  # no peer of ours could send it
        self._take(event, route, [header, *frames])

    def _client_says(self) -> None:
        tape = self._tape
        self._frames(
            events.FromClient, tape.pick(CLIENTS), scripts.message(tape, scripts.CLIENT_SAYS), scripts.body(tape)
        )

    def _worker_says(self) -> None:
        tape = self._tape
        self._frames(
            events.FromWorker, tape.pick(WORKERS), scripts.message(tape, scripts.WORKER_SAYS), scripts.body(tape)
        )

    def _bundle(self, event: Callable[..., Any], route: bytes, types: Sequence[type[Any]]) -> None:
        tape = self._tape
        mail = [(scripts.message(tape, types), scripts.body(tape)) for _ in range(tape.byte() % 6)]
        try:
            together = [frames for _, frames in bundles(mail)]
        except ProtocolError:
            return
        for header, *frames in together:
            self._take(event, route, [bytes(header), *map(bytes, frames)])

    def _client_bundle(self) -> None:
        self._bundle(events.FromClient, self._tape.pick(CLIENTS), scripts.CLIENT_SAYS)

    def _worker_bundle(self) -> None:
        self._bundle(events.FromWorker, self._tape.pick(WORKERS), scripts.WORKER_SAYS)

    def _raw(self) -> None:
        tape = self._tape
        event = tape.pick((events.FromClient, events.FromWorker))
        parts = [tape.blob(), *(tape.blob() for _ in range(tape.byte() % 3))]
        self._take(event, tape.pick(CLIENTS + WORKERS), parts)

    def _wait(self) -> None:
        until = self.now + self._tape.pick(PAUSES_S)
        for _ in range(WAKEUPS_MAX):
            due = self._core.next_wakeup()
            if due is None or due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            self._feed(events.Wakeup())
        raise AssertionError("the core asks to be woken without end")

    def _unreachable(self) -> None:
        tape = self._tape
        which = tape.byte() % 3
        if which == 0:
            self._feed(events.WorkerUnreachable(tape.pick(WORKERS)))
        elif which == 1:
            self._feed(events.ClientClogged(tape.pick(CLIENTS)))
        else:
            unsent = [(scripts.message(tape, scripts.BROKER_SAYS_CLIENT), ()) for _ in range(tape.byte() % 3)]
            self._feed(events.ClientUnreachable(tape.pick(CLIENTS), unsent))

    def _exited(self) -> None:
        tape = self._tape
        running = None if tape.byte() % 4 == 0 else frozenset(range(1, tape.byte() % 8 + 1))
        self._feed(events.ProcessExited(tape.pick(scripts.SESSIONS), running))

    def _operator(self) -> None:
        tape = self._tape
        name = tape.pick(("w", "v", "*", "nobody"))
        which = tape.byte()
        if which >= 224:
            self._feed(events.Revoked(tape.pick(("a", "b", "nobody"))))
        elif which % 2:
            self._feed(events.TrimWorkers(name, tape.byte() % 3))
        else:
            by = tape.pick(("operator", "guard"))
            self._feed(events.Drain(name, tape.byte() % 2 == 1, by, tape.pick((0, 1000, 1001, 5))))

    def _guard(self) -> None:
        self._feed(events.GuardTold(CALM, self._tape.pick(PAUSES)))

    def _odd(self) -> None:
        """A message from the wrong side, or the broker away for a while."""
        tape = self._tape
        if tape.byte() % 4 == 0:
            self.now += 2.0
            self._feed(events.HeldUp(2.0))
            return
        event = tape.pick((events.FromClient, events.FromWorker))
        self._frames(event, tape.pick(CLIENTS + WORKERS), scripts.message(tape, scripts.ANYTHING), scripts.body(tape))


def one(data: bytes) -> int:
    life = Life(Tape(data))
    life.live()
    return life.fed


def seeds() -> Iterator[bytes]:
    for step in range(20):
        yield bytes([0, 1]) + bytes([step, 0, 0, 1, 0, 0, 1, 10, 0, 3, 0, 0, 0, 0]) * 4
