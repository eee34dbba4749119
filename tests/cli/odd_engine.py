"""Serves ``embed`` with three exact numbers a text; some are slow or held up, one ends the process as a crash would."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

from mlx_mesh_wire import Tensor
from mlx_mesh_worker.engine import BatchEngine

DEADLY = "DEADLY"
SLOW = "slow"
SLOW_S = 0.1
HELD = "held up as long as there is "


class Odd(BatchEngine):
    """One vector for each text: its length, its first and its last character."""

    ops = ("embed",)
    pure_ops = ("embed",)
    models = ("odd",)
    batch_max = 1
    slots = 1  # A job that waits in a worker might be blamed for the death of it.

    def run(self, batch: list[Any]) -> list[Any]:
        return [self._one(body["texts"]) for body in batch]

    def _one(self, texts: list[str]) -> dict[str, Any]:
        if DEADLY in texts:
            os._exit(1)
        if texts[0].startswith(SLOW):
            time.sleep(SLOW_S)
        for gate in (Path(text.removeprefix(HELD)) for text in texts if text.startswith(HELD)):
            while gate.exists():
                time.sleep(0.02)
        data = b"".join(struct.pack("<3f", len(text), ord(text[0]), ord(text[-1])) for text in texts)
        vectors = Tensor(data, "float32", (len(texts), 3))
        return {"vectors": vectors, "tokens": [len(text) for text in texts], "truncated": [], "model": "odd"}
