"""Serves ``gated``: what it is asked for takes as long as the file that it names exists, and leaves another one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mlx_mesh_worker.engine import BatchEngine


class Gated0(BatchEngine):
    """The only one: a worker with another number cannot load its engine."""

    ops = ("gated",)
    models = ("gated",)

    def run(self, batch: list[Any]) -> list[Any]:
        for body in batch:
            Path(body).with_suffix(".begun").touch()
            while Path(body).exists():
                time.sleep(0.02)
        return batch
