"""The ``generate`` engine: text from decoder models, by mlx-lm."""

from mlx_mesh_worker.engines.generate.engine import GenerateEngine

__all__ = ["GenerateEngine"]
