"""Drives the engine by the runner that drives it in a worker, without the worker."""

from __future__ import annotations

import time
from typing import Any

from mlx_mesh_wire import MeshError, messages, pack_body, unpack_body
from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.runner import Admit, Cancel, Done, Piece, Runner


class Driver:
    def __init__(self, engine: GenerateEngine) -> None:
        self.reports: list[str] = []
        record = Record(lambda ids: None, lambda: None)
        self.runner = Runner(engine, time.monotonic, record, self.reports.append)
        self.numbers = 0
        self.chunks: dict[Job, list[dict[str, Any]]] = {}
        self.ends: dict[Job, Any] = {}

    def submit(self, body: Any, *, op: str = "generate", lane: int = 1, stream: bool = True) -> Job:
        self.numbers += 1
        message = messages.Job(
            self.numbers, 1, b"s" * 16, self.numbers, op, "", lane, 600_000, 0, 1024 if stream else 0, b"", ""
        )
        job = Job(message, [bytes(frame) for frame in pack_body(body)], time.monotonic())
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

    def tokens(self, job: Job) -> list[int]:
        return [token for chunk in self.chunks[job] for token in chunk["tokens"]]

    def text(self, job: Job) -> str:
        return "".join(chunk["text"] for chunk in self.chunks[job])

    def error(self, job: Job) -> MeshError:
        self.run(job)
        assert isinstance(self.ends[job], MeshError), self.ends[job]
        return self.ends[job]

    def all(self, *bodies: Any, **how: Any) -> list[list[int]]:
        """Generate for all bodies side by side and return their tokens."""
        jobs = [self.submit(body, **how) for body in bodies]
        self.run(*jobs)
        return [self.tokens(job) for job in jobs]
