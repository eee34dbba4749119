"""Serves text as the engine ``generate`` does; as long as a file lies in the run directory, a few tokens a second."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from mlx_mesh_worker.engine import Output
from mlx_mesh_worker.engines.generate import GenerateEngine

SLOW_FILE = "slow"
SLOW_S = 0.05


class SlowText(GenerateEngine):
    """Waits before each step if it is told to. Its model is named as for the other, by the variable alone."""

    def __init__(self, model: str = "") -> None:
        super().__init__(model or os.environ["MLX_MESH_GENERATE_MODEL"])

    def step(self) -> Sequence[Output]:
        """Compute a step."""
        if Path(SLOW_FILE).exists():  # supervisord has gone into the run directory
            time.sleep(SLOW_S)
        return super().step()
