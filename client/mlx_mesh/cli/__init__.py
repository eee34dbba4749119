"""The ``mlx-mesh`` command."""

from mlx_mesh.cli.main import main

__all__ = ["main"]
