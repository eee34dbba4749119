"""The engine of the mesh, traced: ``mlx-mesh-worker --engine benchmarks.generate.traced:TracedEngine``."""

from __future__ import annotations

from benchmarks.generate.trace import trace_to_file
from mlx_mesh_worker.engines.generate import GenerateEngine


class TracedEngine(GenerateEngine):
    """Tells what its generator does."""

    def load(self) -> None:
        super().load()
        trace_to_file()
