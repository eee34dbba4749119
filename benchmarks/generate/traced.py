"""The engine of the mesh, traced: ``mlx-mesh-worker --engine benchmarks.generate.traced:TracedEngine``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmarks.generate.trace import REMOVED, STEP, VARIABLE, Note, to_file
from mlx_mesh_worker.engine import Output
from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.job import Job


class TracedEngine(GenerateEngine):
    """Tells when it begins a step and when it has taken a cancelled text out.

    Attributes:
        note: whom it tells.
    """

    def __init__(self, model: str = "") -> None:
        super().__init__(model)
        self.note: Note = to_file() if VARIABLE in os.environ else lambda _: None

    def step(self) -> Sequence[Output]:
        self.note(STEP)
        return super().step()

    def cancel(self, job: Job) -> None:
        super().cancel(job)
        self.note(REMOVED)
