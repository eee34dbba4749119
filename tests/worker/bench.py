"""A runner with an engine, a clock that jumps, and what it told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_mesh_wire import messages, pack_body, unpack_body
from mlx_mesh_worker.engine import Engine
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.runner import Done, Runner


def job(value: Any, job_id: int = 1, *, ms: int = 60_000, flags: int = 0, window: int = 0, frames: Any = None) -> Job:
    message = messages.Job(job_id, 1, b"s" * 16, job_id, "op", "", 1, ms, flags, window, b"", "")
    return Job(message, pack_body(value) if frames is None else frames, 0.0)


class Bench:
    def __init__(self, engine: Engine, **kwargs: Any) -> None:
        self.now = 0.25
        self.recorded: list[Sequence[int]] = []
        self.reports: list[str] = []
        self.engine = engine
        record = Record(self.recorded.append, lambda: self.recorded.append(()))
        self.runner = Runner(engine, lambda: self.now, record, self.reports.append, **kwargs)

    def turn(self, *commands: Any) -> list[Any]:
        self.runner.commands.extend(commands)
        return self.runner.turn()


def values(outcomes: list[Any]) -> list[Any]:
    return [unpack_body(o.frames) if o.error is None else o.error.code for o in outcomes if isinstance(o, Done)]
