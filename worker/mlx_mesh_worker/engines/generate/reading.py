"""Reading prompts in pieces, so that nobody waits long for anybody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.generate import PromptProcessingBatch
from mlx_lm.models.cache import make_prompt_cache

from mlx_mesh_worker.engines.generate.pace import FAR, PIECE_MIN
from mlx_mesh_worker.engines.generate.slots import capacity_for, make_room

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_worker.engines.generate.row import Row

SHORT_MAX: Final = 64
"""Fresh prompts up to this length are read together, padded; longer ones gain nothing by it."""

TAIL: Final = 0.25
"""A piece may be so much longer if it is the last one then: what is left over would take a pass of its own."""

Piece = tuple["Row", int]


class Reader:
    """Rows whose prompts are being read.

    Turns alternate: one goes to the shortest prompt of the most urgent lane, the next to the one that came first. So a
    short question gets past a long document, and the document still gets half of the time. Suspects come first: the
    longer one takes to be cleared, the likelier an unrelated death is laid on it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._oldest_first = True
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of their caches."""
        return sum(row.nbytes for row in self.rows)

    def begin(self, row: Row, cache: list[Any] | None, cached: int) -> None:
        """Take a row in; its cache holds the first ``cached`` tokens."""
        row.cache, row.fed = (make_prompt_cache(self._model), 0) if cache is None else (cache, cached)
        make_room(row.cache, capacity_for(row.need))
        self.rows.append(row)

    def choose(self, room: Callable[[int], int]) -> list[Piece]:
        """Return which rows are read next, and how many tokens of each.

        ``room`` says how many tokens may be read in all, behind so many others.
        """
        self._oldest_first = not self._oldest_first
        if self._oldest_first:
            ordered = sorted(self.rows, key=lambda row: not row.solo)
        else:
            ordered = sorted(self.rows, key=lambda row: (not row.solo, row.job.lane, row.rest))
        pieces: list[Piece] = []
        tokens = room(ordered[0].fed)
        for row in ordered:
            if pieces and (row.solo or row.fed >= FAR):  # There each token takes longer than the room was made for.
                continue
            # A system prompt ends a piece, so that its cache can be kept for others.
            stop = row.system - row.fed if row.fed < row.system else row.rest
            take = min(stop, row.rest, tokens)
            if stop == row.rest <= tokens * (1 + TAIL):
                take = stop
            pieces.append((row, take))
            tokens -= take
            if tokens < PIECE_MIN or row.solo:
                break
        return pieces

    def read(self, pieces: Sequence[Piece]) -> None:
        """Let the model read them."""
        short = [row for row, take in pieces if not row.fed and take == row.rest <= SHORT_MAX]
        together = short if len(short) > 1 else []
        if together:
            self._read_together(together)
        for row, take in pieces:
            if row in together:
                continue
            assert row.cache is not None  # noqa: S101  it was begun
            self._model(mx.array([row.context[row.fed : row.fed + take]]), cache=row.cache)
            mx.eval([layer.state for layer in row.cache])
            row.fed += take

    def finished(self) -> list[Row]:
        """Take out and return the rows that can join a batch."""
        done = [row for row in self.rows if not row.rest]
        if done:
            self.rows = [row for row in self.rows if row.rest]
        return done

    def _read_together(self, rows: Sequence[Row]) -> None:
        caches = [row.cache for row in rows]
        batch: Any = PromptProcessingBatch(self._model, list(range(len(rows))), caches)  # type: ignore[arg-type]
        batch.prompt([row.context[:-1] for row in rows])
        for index, row in enumerate(rows):
            row.cache = batch.extract_cache(index)
            row.fed = len(row.context) - 1
        mx.eval([layer.state for row in rows for layer in row.cache or ()])
