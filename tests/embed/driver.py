"""Drives an embed engine by the worker's own runner and decodes what comes out, as a client would see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_mesh_wire import MeshError, Tensor, messages, pack_body, unpack_body
from mlx_mesh_worker.engines.embed import EmbedEngine
from mlx_mesh_worker.engines.embed.engine import BUDGET_MAX, BUDGET_MIN
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.runner import Admit, Cancel, Done, Runner

Vectors = NDArray[np.float32]
Answer = dict[str, Any] | MeshError

INTERACTIVE, STANDARD, BULK = 0, 1, 2


class Driver:
    """One engine, its runner, and the answers so far by job id.

    Attributes:
        steps: job ids of every step, in order, and before them those of a job that reads on first.
        reports: texts of tracebacks.
    """

    def __init__(self, engine: EmbedEngine, *, smallest_batches: bool = False) -> None:
        self.engine = engine
        self.steps: list[list[int]] = []
        self.reports: list[str] = []
        self.answers: dict[int, Answer] = {}
        self.runner = Runner(engine, lambda: 1.0, Record(len, int), self.reports.append)
        self._mark = engine.mark
        engine.mark = self._note
        self._ids = 0
        if smallest_batches:  # whatever the machine is busy with meanwhile
            engine._adapt = lambda seconds, tokens: None  # type: ignore[method-assign]
        size = BUDGET_MAX
        while smallest_batches and size > BUDGET_MIN:
            engine.trim(2)
            size //= 2

    def job(self, body: Any, *, lane: int = STANDARD, alone: bool = False, frames: list[bytes] | None = None) -> Job:
        """Return a new job, not yet admitted; a list of texts stands for a body."""
        self._ids += 1
        flags = messages.Flag.ALONE if alone else 0
        message = messages.Job(self._ids, 1, bytes(16), self._ids, "embed", "", lane, 60_000, flags, 0, b"", "")
        value = {"texts": body} if isinstance(body, list) else body
        return Job(message, [bytes(f) for f in pack_body(value)] if frames is None else frames, 0.0)

    def admit(self, *jobs: Job) -> None:
        self.runner.commands.extend(Admit(job) for job in jobs)

    def cancel(self, job: Job) -> None:
        self.runner.commands.append(Cancel(job))

    def turn(self) -> list[int]:
        """Do one step and return the ids of the jobs that it ended."""
        ended = [outcome for outcome in self.runner.turn() if isinstance(outcome, Done)]
        for done in ended:
            if done.error is not None:
                assert done.error.details == (unpack_body(done.frames) if done.frames else {})
            self.answers[done.job.id] = done.error or decoded(unpack_body(done.frames))
        return [done.job.id for done in ended]

    def run(self, *jobs: Job) -> list[Answer]:
        """Compute these jobs, and all else there is, and return their answers."""
        self.admit(*jobs)
        while self.runner.busy:
            self.turn()
        return [self.answers[job.id] for job in jobs]

    def embed(self, texts: list[str], **fields: Any) -> dict[str, Any]:
        """Return the result of one request."""
        (answer,) = self.run(self.job({"texts": texts, **fields}))
        assert isinstance(answer, dict), answer
        return answer

    def vectors(self, texts: list[str], **fields: Any) -> Vectors:
        return np.asarray(self.embed(texts, **fields)["vectors"])

    def error(self, body: Any, **options: Any) -> MeshError:
        """Return the error that one request ends with."""
        (answer,) = self.run(self.job(body, **options))
        assert isinstance(answer, MeshError), answer
        return answer

    def _note(self, jobs: Iterable[Job]) -> None:
        listed = list(jobs)
        self.steps.append([job.id for job in listed])
        self._mark(listed)


def decoded(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result with its vectors as an array."""
    tensor = result["vectors"]
    assert type(tensor) is Tensor
    assert tensor.dtype == "float32"
    return {**result, "vectors": np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)}
