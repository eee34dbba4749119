"""All running texts of a model, in batches of about equal length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_worker.engines.generate.batch import DecodeBatch
from mlx_mesh_worker.engines.generate.slots import capacity_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    import mlx.core as mx

    from mlx_mesh_worker.engines.generate.batch import Token
    from mlx_mesh_worker.engines.generate.row import Row

WASTE_MAX: Final = 4
"""A row joins a batch whose rows have up to this many times the room it needs. One more batch is one more pass of the
model in each step, so few batches are better than little waste."""

SHORT_MAX: Final = 1024
"""Batches up to this length are always shared: what is wasted is little against what a pass costs."""


class Decoder:
    """Rows that get a token each in every step, ``most`` of them.

    A row that is suspected of killing workers has a batch and turns of its own, so that nobody else dies with it.
    """

    def __init__(self, model: Any, most: int) -> None:
        self._model = model
        self._most = most
        self._batches: list[DecodeBatch] = []
        self._solo: list[DecodeBatch] = []
        self._solo_next = False
        self._of: dict[Row, DecodeBatch] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, row: Row) -> bool:
        return row in self._of

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return list(self._of)

    @property
    def suspects(self) -> bool:
        """Whether there are rows that have turns of their own."""
        return bool(self._solo)

    @property
    def nbytes(self) -> int:
        """Bytes of all caches."""
        return sum(batch.nbytes for batch in (*self._batches, *self._solo))

    def join(self, row: Row, cache: Sequence[Any], token: mx.array | int) -> None:
        """Take a row in: its cache, and the token that comes next into the model."""
        batch = self._fitting(row) or (self._alone(row) if row.solo else self._larger(row))
        batch.join(row, cache, token)
        self._of[row] = batch

    def growth(self, row: Row, others: int) -> int:
        """Return how many tokens' worth of room is made when this row joins, and so many others of its kind before."""
        batch = self._fitting(row)
        if batch is not None:
            return batch.growth(1 + others)
        capacity = capacity_for(row.need)
        near = [] if row.solo else self._near(capacity)
        return capacity * (1 + others + sum(map(len, near))) - sum(each.room for each in near)

    def _fitting(self, row: Row) -> DecodeBatch | None:
        """Return the batch that a row joins, None for a new one."""
        need = row.need
        most = max(SHORT_MAX, WASTE_MAX * need)
        fitting = [batch for batch in self._batches if need <= batch.capacity <= most]
        return min(fitting, key=lambda batch: batch.capacity) if fitting and not row.solo else None

    def _alone(self, row: Row) -> DecodeBatch:
        batch = DecodeBatch(self._model, capacity_for(row.need), 1)
        self._solo.append(batch)
        return batch

    def _larger(self, row: Row) -> DecodeBatch:
        """Return a new batch with room for a row. Those that are not much smaller move into it: one pass less."""
        capacity = capacity_for(row.need)
        near = self._near(capacity)
        batch = DecodeBatch(self._model, capacity, self._most, places=1 + sum(map(len, near)))
        for smaller in near:
            for moved in smaller.rows:
                batch.join(moved, smaller.cache_of(moved)[0], smaller.next_token(moved))
                self._of[moved] = batch
            self._batches.remove(smaller)
        self._batches.append(batch)
        return batch

    def _near(self, capacity: int) -> list[DecodeBatch]:
        """Return the batches that move into a new one of this room."""
        smaller = [batch for batch in self._batches if batch.capacity < capacity and not batch.unread]
        return [batch for batch in smaller if capacity <= max(SHORT_MAX, WASTE_MAX * batch.capacity)]

    def turn(self) -> list[DecodeBatch]:
        """Return the batches whose turn it is: that of a suspect, or all others."""
        self._solo_next = bool(self._solo) and (not self._batches or not self._solo_next)
        if not self._solo_next:
            return list(self._batches)
        batch = self._solo.pop(0)
        self._solo.append(batch)
        return [batch]

    def flush(self) -> list[Token]:
        """Return the tokens that were computed and not read."""
        return [token for batch in (*self._batches, *self._solo) for token in batch.flush()]

    def outgrown(self) -> list[Row]:
        """Return the rows that have no room for another token; flush, take them out and let them join again."""
        full = [batch for batch in (*self._batches, *self._solo) if batch.reach > batch.capacity]
        return [row for batch in full for row in batch.rows if batch.length(row) >= batch.capacity]

    def leave(self, rows: Sequence[Row]) -> None:
        """Take rows out."""
        for batch in {id(self._of[row]): self._of[row] for row in rows}.values():
            batch.leave([row for row in rows if self._of[row] is batch])
        for row in rows:
            del self._of[row]
        self._batches = [batch for batch in self._batches if len(batch)]
        self._solo = [batch for batch in self._solo if len(batch)]

    def cache_of(self, row: Row) -> tuple[list[Any], int]:
        """Return a row's cache and how many tokens it holds."""
        return self._of[row].cache_of(row)

    def clear(self) -> None:
        """Forget all rows."""
        self._batches = []
        self._solo = []
        self._of = {}
