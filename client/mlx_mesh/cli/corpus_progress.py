"""What an interrupted corpus run leaves behind, so that the next one goes on from there."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from mlx_mesh.cli.output import fail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Paths:
    """The output and what lies beside it while it is being made."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.progress = out.with_name(out.name + ".progress")
        self.skipped = out.with_name(out.name + ".skipped.jsonl")

    def forget(self) -> None:
        """Remove what earlier runs left beside the output. The output stays until there is another."""
        for path in (self.progress, self.skipped):
            path.unlink(missing_ok=True)

    def finish(self, skipped: int) -> None:
        """Turn the partial output into the output."""
        self.partial.replace(self.out)
        self.progress.unlink(missing_ok=True)
        if not skipped:
            self.skipped.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run away from the same output."""
        descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                fail(f"{self.partial} is being written by another run; wait for it, or choose another --out")
            yield
        finally:
            if not os.fstat(descriptor).st_size:
                self.partial.unlink(missing_ok=True)
            os.close(descriptor)


class Progress(NamedTuple):
    """How far a corpus has come; all of it describes finished batches.

    Attributes:
        source: fingerprint of the input.
        options: what else must be the same to go on (field, model, raw).
        offset: bytes of the input that are done, ``line`` lines.
        size: bytes of the output that hold their rows.
        rows, tokens, truncated: totals so far.
        skipped: lines left out, listed in a file beside the output; ``skipped_size`` is its size in bytes.
        seconds: time spent by earlier runs.
        model, dimension: what the workers said.
    """

    source: str
    options: dict[str, str]
    offset: int = 0
    line: int = 0
    size: int = 0
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    skipped: int = 0
    skipped_size: int = 0
    seconds: float = 0.0
    model: str = ""
    dimension: int = 0

    def save(self, path: Path) -> None:
        """Write it to a file in one piece."""
        draft = path.with_name(path.name + ".new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(self._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


_KINDS = {name: type(value) for name, value in Progress("", {})._asdict().items()}


def load_progress(path: Path) -> Progress | None:
    """Return what :meth:`Progress.save` wrote; None if there is nothing of use."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kinds = {name: type(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError):
        return None
    return Progress(**found) if kinds == _KINDS else None
