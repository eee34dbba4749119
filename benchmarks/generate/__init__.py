"""Text by the mesh, by a bare BatchGenerator and by mlx_lm.server: the same model, the same prompts, in turns."""

from benchmarks.generate.run import run

__all__ = ["run"]
