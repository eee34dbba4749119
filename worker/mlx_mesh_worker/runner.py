"""Drives one engine: commands before every step, then one step. All of it on the compute thread; it reads no clock."""

from __future__ import annotations

import traceback
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_mesh_wire import DeadlineExceededError, EngineError, MeshError
from mlx_mesh_worker.engine import Chunk, EngineBrokenError, Failure
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.outputs import ALLOWED, ENDS, encoded, sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlx_mesh_wire.body import Frame
    from mlx_mesh_worker.engine import Engine
    from mlx_mesh_worker.record import Record


class Admit(NamedTuple):
    """Compute this job."""

    job: Job


class Cancel(NamedTuple):
    """Forget this job; nobody wants its answer."""

    job: Job


class Withdraw(NamedTuple):
    """Give this job back if it has not begun."""

    job: Job


class Trim(NamedTuple):
    """Give memory back; at level 0, memory is short no more."""

    level: int


Command = Admit | Cancel | Withdraw | Trim


class Piece(NamedTuple):
    """A chunk of a stream, encoded."""

    job: Job
    frames: Sequence[Frame]


class Done(NamedTuple):
    """The end of a job: its encoded result, or why there is none."""

    job: Job
    frames: Sequence[Frame]
    error: MeshError | None
    finished: float


class Returned(NamedTuple):
    """The job had not begun and may be given to another worker."""

    job: Job


Outcome = Piece | Done | Returned


class Runner:
    """One engine and the jobs that it was given.

    Args:
        engine: loaded and warmed up on the thread that calls :meth:`turn`.
        clock: seconds, the clock of ``Job.deadline``.
        record: told what is computed before each admission and each step, and after it that nothing is.
        report: gets the text of a traceback.
        failures_max: steps in a row that may fail before the engine counts as broken.

    Attributes:
        progress: steps done so far, and turns that only obeyed commands: either shows that the thread is not stuck.
        running: the jobs of the step or the admission under way.
        step_since: when that began, or when a load within it ended; None between steps.
        loading_since: when the engine began to load something within the step; None while it does not.
        trimmed: the level of a Trim that was obeyed; None once whoever drives the runner has taken note.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float],
        record: Record,
        report: Callable[[str], None],
        failures_max: int = 5,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._record = record
        self._report = report
        self._failures_max = failures_max
        self._failures = 0
        self._jobs: dict[Job, None] = {}
        self._next_expiry = float("inf")
        self.commands: deque[Command] = deque()
        self.progress = 0
        self.running: list[Job] = []
        self.step_since: float | None = None
        self.loading_since: float | None = None
        self.trimmed: int | None = None
        self._blamed = False
        engine.mark = self._mark
        engine.loading = self._loading

    @property
    def busy(self) -> bool:
        """Whether ``turn`` has something to do: a command, or a job whose reader has room."""
        return bool(self.commands) or not all(job.blocked for job in self._jobs)

    def turn(self) -> list[Outcome]:
        """Obey the commands so far, drop what has expired, do one step; return what came of it.

        Raises:
            EngineBrokenError: the engine cannot go on.
        """
        outcomes: list[Outcome] = []
        commands = self.commands
        obeyed = bool(commands)
        while commands:
            self._obey(commands.popleft(), outcomes)
        if not self._jobs:
            self.progress += obeyed  # Else one that was called stalled, and so holds nothing any more, would remain so.
            return outcomes
        now = self._clock()
        if now >= self._next_expiry:
            self._expire(now, outcomes)
        if not all(job.blocked for job in self._jobs):
            self._step(now, outcomes)
        return outcomes

    def _obey(self, command: Command, outcomes: list[Outcome]) -> None:
        if isinstance(command, Admit):
            self._admit(command.job, outcomes)
        elif isinstance(command, Trim):
            self._trim(command.level)
        elif command.job in self._jobs and (isinstance(command, Cancel) or not command.job.started):
            self._forget(command.job)
            if isinstance(command, Withdraw):
                outcomes.append(Returned(command.job))

    def _trim(self, level: int) -> None:
        self.step_since = self._clock()
        try:
            self._engine.trim(level)
        except Exception as error:  # noqa: BLE001  no job asked for it, and none is to suffer
            self._engine_error(error)
        self.step_since = None
        self.trimmed = level

    def _admit(self, job: Job, outcomes: list[Outcome]) -> None:
        now = self._clock()
        if now >= job.deadline:
            outcomes.append(self._failed(job, _expired()))
            return
        # A body may be what kills: it is decoded here, and text is tokenised by code in C.
        self.step_since = now
        self.running = [job]
        self._record.begin(self.running)
        try:
            self._engine.admit(job)
        except Exception as error:  # noqa: BLE001  an engine is anybody's code; its error is the job's, not ours
            outcomes.append(self._failed(job, error))
        else:
            self._jobs[job] = None
            self._next_expiry = min(self._next_expiry, job.deadline)
        self._rest()

    def _rest(self) -> None:
        self.step_since = None
        self.running = []
        self._record.end()

    def _expire(self, now: float, outcomes: list[Outcome]) -> None:
        for job in [job for job in self._jobs if now >= job.deadline]:
            self._forget(job)
            outcomes.append(self._failed(job, _expired()))
        self._next_expiry = min((job.deadline for job in self._jobs), default=float("inf"))

    def _forget(self, job: Job) -> None:
        del self._jobs[job]
        try:
            self._engine.cancel(job)
        except Exception as error:  # noqa: BLE001  nobody waits for this job; the others are not to suffer
            self._engine_error(error)

    def _mark(self, jobs: Iterable[Job]) -> None:
        self.running = running = list(jobs)
        self._blamed = True
        now = self._clock()
        for job in running:
            job.started = job.started or now
        self._record.begin(running)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Within this a step may take as long as a load; what it took is not counted as the step's own time."""
        outer = self.loading_since
        if outer is None:
            self.loading_since = self._clock()
        try:
            yield
        finally:
            if self.step_since is not None:
                self.step_since = self._clock()
            self.loading_since = outer

    def _step(self, now: float, outcomes: list[Outcome]) -> None:
        self._blamed = False
        self.step_since = now
        try:
            outputs = list(self._engine.step())
            strays = [output for output in outputs if not self._deliver(output, outcomes)]
            if strays:
                raise TypeError(f"step() returned a {type(strays[0]).__name__}; {ALLOWED}")
        except EngineBrokenError:
            raise  # The record stays: what the process ends of is in it.
        except Exception as error:  # noqa: BLE001  the jobs of this step fail, the process goes on
            self._step_failed(error, outcomes)
        else:
            self._failures = 0
        self._rest()
        self.progress += 1

    def _step_failed(self, error: Exception, outcomes: list[Outcome]) -> None:
        why = self._engine_error(error)
        for job in self.running if self._blamed else list(self._jobs):
            if job in self._jobs:
                self._forget(job)
                outcomes.append(self._failed(job, why))
        self._failures += 1
        if self._failures >= self._failures_max:
            raise EngineBrokenError(f"{self._failures} steps in a row failed, the last with {error!r}") from error

    def _deliver(self, output: Any, outcomes: list[Outcome]) -> bool:
        """Pass on what a step returned; False if it cannot be told which job it is for."""
        job = getattr(output, "job", None)
        if not isinstance(job, Job):
            return False
        if job in self._jobs:
            outcomes.append(self._outcome(job, output))
        return True

    def _outcome(self, job: Job, output: Any) -> Outcome:
        kind = type(output)
        try:
            frames = () if kind is Failure else encoded(output)
        except MeshError as error:
            if kind in ENDS:
                del self._jobs[job]
            else:
                self._forget(job)
            return self._failed(job, error)
        if kind is Chunk:
            return Piece(job, frames)
        del self._jobs[job]
        now = self._clock()
        job.started = job.started or now
        return self._failed(job, output.error) if kind is Failure else Done(job, frames, None, now)

    def _failed(self, job: Job, error: Any) -> Done:
        whole, details = sendable(error if isinstance(error, MeshError) else self._engine_error(error))
        return Done(job, details, whole, self._clock())

    def _engine_error(self, error: Any) -> EngineError:
        if not isinstance(error, BaseException):
            return EngineError(f"the engine gave {error!r} instead of an error"[:800])
        self._report("".join(traceback.format_exception(error)))
        return EngineError(f"{type(error).__name__}: {error}"[:800])


def _expired() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the worker came to it")
