"""All running texts of a model, in batches of about equal length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from mlx_mesh_worker.engines.generate.batch import DecodeBatch
from mlx_mesh_worker.engines.generate.slots import capacity_for, grown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import mlx.core as mx

    from mlx_mesh_worker.engines.generate.batch import Token
    from mlx_mesh_worker.engines.generate.row import Row

WASTE_MAX: Final = 4
"""A row joins a batch whose rows have up to this many times the room it needs. One more batch is one more pass of the
model in each step, so few batches are better than little waste."""

MOVE_MAX: Final = 1.5
"""Batches move into one that is larger by no more than this: all of their rows are copied, and everybody waits."""

SHORT_MAX: Final = 1024
"""Batches up to this length are always shared: what is wasted is little against what a pass costs."""


class _Sized(Protocol):
    @property
    def capacity(self) -> int: ...


_S = TypeVar("_S", bound=_Sized)


@dataclass(eq=False)
class _Plan:
    """What a batch will be like."""

    capacity: int
    rows: int
    places: int

    @property
    def room(self) -> int:
        return self.capacity * self.places


def _fitting(batches: Sequence[_S], need: int) -> _S | None:
    """Return the batch that a row joins, None for a new one."""
    most = max(SHORT_MAX, WASTE_MAX * need)
    fitting = [batch for batch in batches if need <= batch.capacity <= most]
    return min(fitting, key=lambda batch: batch.capacity) if fitting else None


def _near(batches: Sequence[_S], capacity: int) -> list[_S]:
    """Return the batches that move into a new one of this room."""
    smaller = [batch for batch in batches if batch.capacity < capacity]
    return [batch for batch in smaller if capacity <= max(SHORT_MAX, MOVE_MAX * batch.capacity)]


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
        batch = self._alone(row) if row.solo else _fitting(self._batches, row.need) or self._larger(row)
        batch.join(row, cache, token)
        self._of[row] = batch

    def growth(self, rows: Sequence[Row]) -> int:
        """Return how many tokens' worth of room is made when these rows join, one after the other."""
        now = [*self._batches, *self._solo]
        before = sum(batch.capacity * batch.places for batch in now)
        plans = [_Plan(batch.capacity, len(batch), max(len(batch), batch.places)) for batch in self._batches]
        alone = sum(batch.capacity for batch in self._solo)
        for row in rows:
            if row.solo:
                alone += capacity_for(row.need)
                continue
            plan = _fitting(plans, row.need)
            if plan is None:
                capacity = capacity_for(row.need)
                near = _near(plans, capacity)
                moved = sum(each.rows for each in near)
                plan = _Plan(capacity, moved, moved + 1)
                plans = [each for each in plans if each not in near] + [plan]
            plan.rows += 1
            if plan.rows > plan.places:
                plan.places = grown(plan.places, plan.rows, self._most)
        return sum(plan.room for plan in plans) - before + alone

    def compact(self) -> None:
        """Give back the places of rows that left."""
        for batch in self._batches:
            batch.compact()

    def _alone(self, row: Row) -> DecodeBatch:
        batch = DecodeBatch(self._model, capacity_for(row.need), 1)
        self._solo.append(batch)
        return batch

    def _larger(self, row: Row) -> DecodeBatch:
        """Return a new batch with room for a row. Those that are not much smaller move into it: one pass less."""
        capacity = capacity_for(row.need)
        near = [batch for batch in _near(self._batches, capacity) if not batch.unread]
        batch = DecodeBatch(self._model, capacity, self._most, places=1 + sum(map(len, near)))
        for smaller in near:
            for moved in smaller.rows:
                batch.join(moved, smaller.cache_of(moved)[0], smaller.next_token(moved))
                self._of[moved] = batch
            self._batches.remove(smaller)
        self._batches.append(batch)
        return batch

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
