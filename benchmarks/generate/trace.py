"""Notes when an engine begins a step and when it takes a row out: the mesh's engine, or mlx-lm's BatchGenerator.

That is evidence of what computes, whatever clients are told. Times are those of the system's monotonic clock, which
processes share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "BENCH_TRACE"
"""Environment: the file that a traced process writes to."""

STEP, REMOVED = "step", "removed"
Event = tuple[str, float]
Note = Callable[[str], None]
"""Takes an event that happens now."""


class Removal(NamedTuple):
    """How a row was taken out: seconds after the client left, and steps that were begun in between."""

    seconds: float
    steps: int


def to_file() -> Note:
    """Return what notes events in the file that the environment names."""
    file = Path(os.environ[VARIABLE]).open("a", encoding="ascii", buffering=1)  # noqa: SIM115  until the process ends
    return lambda kind: print(kind, f"{time.monotonic():.6f}", file=file)


def trace_batch_generator(note: Note) -> None:
    """Have every BatchGenerator of this process tell what it does."""
    from mlx_lm.generate import BatchGenerator

    traced: Any = BatchGenerator
    step, remove = traced.next, traced.remove

    def noted_step(self: Any) -> Any:
        note(STEP)
        return step(self)

    def noted_remove(self: Any, *args: Any, **keywords: Any) -> Any:
        found = remove(self, *args, **keywords)
        note(REMOVED)
        return found

    traced.next, traced.remove = noted_step, noted_remove


def read(path: Path) -> list[Event]:
    """Return what a traced process wrote."""
    lines = path.read_text(encoding="ascii").splitlines()
    return [(kind, float(at)) for kind, at in map(str.split, lines)]


def removals(events: Sequence[Event], left: Sequence[float]) -> list[Removal]:
    """Return for each time at which a client left how its row was taken out.

    Raises:
        ValueError: one never was.
    """
    found = []
    for at in left:
        steps = 0
        for kind, when in events:
            steps += kind == STEP and when > at
            if kind == REMOVED and when > at:
                found.append(Removal(when - at, steps))
                break
        else:
            raise ValueError(f"the row of the client that left at {at:.3f} was never taken out")
    return found
