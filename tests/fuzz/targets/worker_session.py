"""Whatever a broker sends to a worker that works, drains and reconnects, it answers each job at most once under the
number that it has, keeps nothing of jobs that ended, and sends only what fits into messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlx_mesh_wire import EngineError, MeshError, encode_header, messages
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Admit, Cancel, Done, Piece, Returned
from mlx_mesh_worker.session import Session, Vitals
from mlx_mesh_worker.session_actions import Leave, Reconnect, Send
from tests.fuzz import scripts
from tests.fuzz.tape import Tape

INFO = messages.Ready(1, 0, b"i" * 16, "w", "h", "m", 1, 1, ["echo"], [], [], 2, 5000, {})
PAUSES_S = (0.0, 0.1, 1.0, 6.0, 40.0)
STEPS_MAX = 128
TICKS_MAX = 8
MOMENT_S = 1e-6
"""A clock goes on between two turns."""

PIECES = (b"\xa1x",)


class Life:
    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._now = 10.0
        self._session = Session(INFO, self._now, resumes=tape.byte() % 2 == 1)
        self._session.connected(self._now)
        self._session.loaded(INFO, self._now)
        self._running: list[Job] = []
        self._steps = (*(self._hear,) * 6, *(self._compute,) * 4, self._wait, self._odd, self._body)
        self.fed = 0

    def live(self) -> None:
        for _ in range(STEPS_MAX):
            if not self._tape.left:
                break
            self._tape.pick(self._steps)()
            self._act()
        for job in list(self._running):
            self._session.outcome(self._now, Done(job, PIECES, None, self._now))
        self._act()
        for job in self._session.jobs.values():
            assert job.backlog, "a job that ended waits for nothing but its reader"

    def _hear(self) -> None:
        message = scripts.message(self._tape, scripts.BROKER_SAYS_WORKER)
        self._session.message(self._now, message, scripts.BODIES[0])
        self.fed += 1

    def _body(self) -> None:
        message = scripts.message(self._tape, scripts.ANYTHING)
        self._session.message(self._now, message, scripts.body(self._tape))
        self.fed += 1

    def _compute(self) -> None:
        """The runner does something with one of the jobs that it was given."""
        if not self._running:
            return
        which = self._tape.byte()
        job = self._running[which % len(self._running)]
        kind = which >> 5
        if kind < 3:
            job.started = job.started or self._now
            self._session.outcome(self._now, Piece(job, PIECES))
            return
        self._running.remove(job)
        if kind == 3 and not job.started:
            self._session.outcome(self._now, Returned(job))
            return
        error: MeshError | None = EngineError("x" * 2000) if kind == 4 else None
        job.started = job.started or self._now
        self._session.outcome(self._now, Done(job, () if error else PIECES, error, self._now))

    def _wait(self) -> None:
        self._now += self._tape.pick(PAUSES_S)
        for _ in range(TICKS_MAX):
            self._now += MOMENT_S
            self._session.tick(self._now, lambda: Vitals(1, [1], ["m"], {"rss": 1}, {}))
            if self._session.next_tick() > self._now:
                return
        raise AssertionError("the worker wants its turn without end")

    def _odd(self) -> None:
        which = self._tape.byte()
        if which < 16:
            self._session.drain(self._now)
        elif which < 24:
            self._session.abandon("hurry")
        elif which < 64:
            self._session.loaded(INFO, self._now)
        else:
            self._session.connected(self._now)

    def _act(self) -> None:
        """Do as the shell does, with a runner that never forgets to obey."""
        for action in self._session.take():
            if type(action) is Send:
                encode_header(action.message)
            elif type(action) is Admit:
                self._running.append(action.job)
            elif type(action) is Cancel and action.job in self._running:
                self._running.remove(action.job)
            elif type(action) is Reconnect:
                self._session.connected(self._now)
            elif type(action) is Leave:
                pass  # a shell would end; the session must bear whatever comes before that


def one(data: bytes) -> int:
    life = Life(Tape(data))
    life.live()
    return life.fed


def seeds() -> Iterator[bytes]:
    for number in range(len(scripts.BROKER_SAYS_WORKER)):
        yield bytes([0]) + bytes([0, number, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 6, 0, 10, 2, 6, 160]) * 4
