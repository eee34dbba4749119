"""Scenarios by chance: calls, readers and a broker that does everything that one may do, and some of what none does."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from scenario_recorder import BODY, GRID_MS, Recorder, error, final, odd, tokens, welcome

from mlx_mesh_wire import messages
from mlx_mesh_wire.messages import Flag

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 120
STEPS = 48
CODES = ("OVERLOADED", "OUT_OF_MEMORY", "INTERNAL", "WORKER_LOST", "NO_WORKER", "SOMETHING_NEW")


class Run:
    """One run, its dice and what the broker knows."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)  # noqa: S311 - the same each time
        self.at = Recorder(f"by chance, {seed}", lambda: odd(random.random()))
        self.epoch = 1
        self.places = random.choice((1, 2, 3, 64))
        self.known: dict[int, Any] = {}
        self.next_seq: dict[int, int] = {}

    def play(self) -> Recorder:
        """Return the recording."""
        at = self.at
        at.connected()
        acts = [act for act, weight in self._acts() for _ in range(weight)]
        while len(at.scenario()["steps"]) < STEPS:
            self._look()
            if at.session.reconnect and self._chance(0.8):
                at.connected()
            elif not at.session.welcomed and self._chance(0.5):
                self._welcome()
            else:
                self.random.choice(acts)()
        if self._chance(0.3):
            at.close()
        else:
            at.advance(10_000)
        return at

    def _acts(self) -> list[tuple[Callable[[], None], int]]:
        return [
            (self._start, 8), (self._pass, 8), (self._chunk, 14), (self._read, 10), (self._final, 6), (self._fail, 5),
            (self._again, 3), (self._cancel, 2), (self._reset, 2), (self._welcome, 1), (self._odd, 1),
        ]  # fmt: skip

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _look(self) -> None:
        """Learn what was sent: the broker has a stream go on from what its reader has."""
        for message in self.at.sent:
            if isinstance(message, messages.Request):
                self.known[message.request_id] = message
                self.next_seq[message.request_id] = message.seen
            elif isinstance(message, messages.Cancel):
                self.known.pop(message.id, None)
        self.at.sent = []

    def _some(self) -> int:
        """Return the id of a request, at times of none."""
        return self.random.choice(list(self.known)) if self.known and self._chance(0.97) else 99

    def _stream(self) -> int:
        streams = [request_id for request_id, message in self.known.items() if message.window or message.seen]
        return self.random.choice(streams) if streams else self._some()

    def _start(self) -> None:
        kind = self.random.random()
        timeout_ms = GRID_MS * self.random.randint(1, 64 if self._chance(0.3) else 480)
        lane = self.random.randrange(3)
        if kind < 0.1:
            self.at.start(op="mesh.status", lane=lane, timeout_ms=timeout_ms)
        elif kind < 0.35:
            flags = self.random.choice((0, Flag.AT_MOST_ONCE, Flag.WAIT_FOR_READY | Flag.FRESH))
            self.at.start(lane=lane, timeout_ms=timeout_ms, flags=flags)
        else:
            flags = self.random.choice((0, Flag.RESUMABLE, Flag.RESUMABLE, Flag.AT_MOST_ONCE))
            self.at.start(lane=lane, timeout_ms=timeout_ms, flags=flags, window=self.random.choice((1, 2, 5, 16)))

    def _pass(self) -> None:
        kind = self.random.random()
        if kind < 0.4:
            self.at.now_ms = max(self.at.now_ms, self.at.due_ms())
            self.at.tick()
        elif kind < 0.95:
            self.at.tick(GRID_MS * self.random.randrange(12))
        else:
            self.at.tick(GRID_MS * self.random.randrange(20, 400))

    def _chunk(self) -> None:
        request_id = self._stream()
        seq = self.next_seq.get(request_id, 0)
        if self._chance(0.15):
            seq = max(0, seq + self.random.choice((-1, 1, 2)))
        else:
            self.next_seq[request_id] = seq + 1
        several = [self.random.getrandbits(32) for _ in range(self.random.randrange(3))]
        self.at.hear(messages.Chunk(request_id, seq), BODY if self._chance(0.05) else tokens(*several))

    def _read(self) -> None:
        streams = [number for number, pending in self.at.pendings.items() if pending.next_seq > pending._taken]  # noqa: SLF001
        if streams:
            self.at.read(self.random.choice(streams))

    def _final(self) -> None:
        request_id = self._some()
        chunks = self.next_seq.get(request_id, 0) + self._chance(0.1)
        self.at.hear(final(request_id, chunks), BODY)
        if request_id in self.known and not self.at.sent:
            del self.known[request_id]

    def _fail(self) -> None:
        request_id = self._some()
        after_ms = self.random.choice((0, 0, 25, 400, 1500))
        self.at.hear(error(request_id, self.random.choice(CODES), retryable=self._chance(0.7), after_ms=after_ms))
        self.known.pop(request_id, None)

    def _again(self) -> None:
        request_id = self._stream()
        chunks = self.next_seq.get(request_id, 0) + 2 * self._chance(0.2)
        self.at.hear(messages.Again(request_id, chunks))

    def _cancel(self) -> None:
        if alive := [number for number in self.at.pendings if number not in self.at.ended]:
            self.at.cancel(self.random.choice(alive))

    def _reset(self) -> None:
        self.epoch += self._chance(0.8)
        dropped = self._some() if self._chance(0.5) else 0
        self.at.hear(messages.Reset(f"e{self.epoch}", dropped))

    def _welcome(self) -> None:
        more = {"outstanding_max": self.places} if self._chance(0.9) else {}
        ping_ms, silent_ms = self.random.choice(((1000, 5000), (1000, 5000), (250, 2000), (0, 0)))
        self.at.hear(welcome(f"e{self.epoch}", ping_ms, silent_ms, **more))

    def _odd(self) -> None:
        code = self.random.choice(("UNAUTHORIZED", "PROTOCOL_ERROR", "PROTOCOL_ERROR", "OVERLOADED"))
        for_nobody = (messages.Quiet(True), messages.Bye("over"), messages.Ping(3), messages.Pong(1), error(0, code))
        self.at.hear(self.random.choice(for_nobody))
