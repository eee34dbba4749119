"""Drives the engine by the runner that drives it in a worker, without the worker."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlx_mesh_wire import Flag, MeshError, messages, pack_body, unpack_body
from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.engines.generate.cpu import Replaced
from mlx_mesh_worker.engines.generate.loader import LoadedModel
from mlx_mesh_worker.engines.generate.settings import GenerateSettings
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.runner import Admit, Cancel, Done, Piece, Runner


def make_engine(model: object, **settings: Any) -> GenerateEngine:
    """Return an engine that has loaded a model, or several with commas between them."""
    engine = GenerateEngine(str(model))
    engine.settings = GenerateSettings(**settings)
    engine.load()
    engine.warm()
    return engine


def tokens_of(key: bytes) -> list[int]:
    """Return the tokens that a key of the prefix cache stands for."""
    return [int.from_bytes(key[n : n + 4], "big") for n in range(0, len(key), 4)]


def texts_of(engine: GenerateEngine, model: str = "") -> Any:
    """Return the scheduler of a model that is loaded."""
    served = engine._models.get(model)
    assert served is not None
    return served.texts


def loaded_by(engine: GenerateEngine) -> LoadedModel:
    """Return the default model of an engine."""
    served = engine._models.get("")
    assert served is not None
    return served.loaded


@contextmanager
def mlx_lm_alone(loaded: LoadedModel) -> Iterator[None]:
    """Have the model compute by mlx-lm's own functions, where ours replaced some."""
    for replaced in loaded.replaced:
        replaced.undo()
    yield
    loaded.replaced = [Replaced(each) for each in (loaded.model, loaded.draft) if each is not None]


class Driver:
    def __init__(self, engine: GenerateEngine) -> None:
        self.reports: list[str] = []
        record = Record(lambda ids: None, lambda: None)
        self.runner = Runner(engine, time.monotonic, record, self.reports.append)
        self.numbers = 0
        self.chunks: dict[Job, list[dict[str, Any]]] = {}
        self.ends: dict[Job, Any] = {}

    def submit(
        self,
        body: Any,
        *,
        op: str = "generate",
        lane: int = 1,
        stream: bool = True,
        model: str = "",
        given: list[int] | None = None,
        remaining_ms: int = 600_000,
        alone: bool = False,
        resumable: bool = True,
    ) -> Job:
        self.numbers += 1
        flags = Flag.ALONE * alone | Flag.RESUMABLE * resumable | (0 if given is None else Flag.RESUMED)
        window, seen = (1024, len(given or ())) if stream else (0, 0)
        message = messages.Job(
            self.numbers, 1, b"s" * 16, self.numbers, op, model, lane, remaining_ms, flags, window, b"", "", seen
        )
        frames = [bytes(frame) for frame in pack_body(body)]
        if given is not None:
            frames.append(struct.pack(f"<{len(given)}I", *given))
        job = Job(message, frames, time.monotonic(), resumes=True)
        self.chunks[job] = []
        self.runner.commands.append(Admit(job))
        return job

    def cancel(self, job: Job) -> None:
        self.runner.commands.append(Cancel(job))

    def turn(self) -> None:
        for outcome in self.runner.turn():
            if isinstance(outcome, Piece):
                self.chunks[outcome.job].append(unpack_body([bytes(f) for f in outcome.frames]))
            else:
                assert isinstance(outcome, Done)
                self.ends[outcome.job] = outcome.error or unpack_body([bytes(f) for f in outcome.frames])

    def run(self, *jobs: Job) -> None:
        """Turn until these have ended."""
        for _ in range(20_000):
            if all(job in self.ends for job in jobs):
                return
            self.turn()
        raise AssertionError("it does not end")

    def parts(self, job: Job) -> list[dict[str, Any]]:
        """Return the chunks of a stream and, once it has ended, what came with the end."""
        end = self.ends.get(job)
        return [*self.chunks[job], *([end] if isinstance(end, dict) else [])]

    def tokens(self, job: Job) -> list[int]:
        return [token for part in self.parts(job) for token in part["tokens"]]

    def text(self, job: Job) -> str:
        return "".join(part["text"] for part in self.parts(job))

    def error(self, job: Job) -> MeshError:
        self.run(job)
        found = self.ends[job]
        assert isinstance(found, MeshError), found
        return found

    def all(self, *bodies: Any, **how: Any) -> list[list[int]]:
        """Generate for all bodies side by side and return their tokens."""
        jobs = [self.submit(body, **how) for body in bodies]
        self.run(*jobs)
        return [self.tokens(job) for job in jobs]
