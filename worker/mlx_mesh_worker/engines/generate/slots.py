"""Key-value caches of many texts side by side, which join and leave without a copy of the others.

mlx-lm's batch caches align their rows at the right end, so each row that joins or leaves has all of them copied: with
32 rows of 512 tokens that takes longer than the step itself. Here each row begins at the left end of its own place.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import KVCache

if TYPE_CHECKING:
    from collections.abc import Sequence

GRAIN: Final = 256


def capacity_for(tokens: int) -> int:
    """Return the room of a batch for rows of so many tokens: a multiple of 256, from 1024 on of a quarter of itself."""
    grain = GRAIN
    while tokens > 4 * grain:
        grain *= 2
    return -(-tokens // grain) * grain


def make_room(cache: Sequence[Any], capacity: int) -> None:
    """Have the caches of a text that is to be read get all their room at once.

    mlx-lm's caches grow by 256 tokens, each time with a copy of all that is there.
    """
    for layer in cache:
        if type(layer) is KVCache:
            layer.step = max(1, capacity - layer.offset)
            if layer.keys is not None and layer.values is not None:  # It grows with the first token that is read.
                layer.keys, layer.values = layer.keys[..., : layer.offset, :], layer.values[..., : layer.offset, :]


def snug(cache: Sequence[Any]) -> list[Any]:
    """Return a copy of a text's caches without room to spare."""
    copies = [copy.deepcopy(layer) for layer in cache]
    for layer in copies:
        if type(layer) is KVCache and layer.keys is not None and layer.values is not None:
            layer.keys = mx.contiguous(layer.keys[..., : layer.offset, :])
            layer.values = mx.contiguous(layer.values[..., : layer.offset, :])
            layer.step = KVCache.step
    mx.eval([layer.state for layer in copies])
    return copies


def grown(places: int, needed: int, most: int) -> int:
    """Return how many places to make when there are too few: half as many again, so that few rows are ever copied."""
    return max(needed, min(most, places + places // 2))


class Lengths:
    """How many tokens each row has, shared by the caches of all layers.

    Attributes:
        offset: the same as an array of shape ``(rows,)``: where the token to come is written, and its position.
        reach: tokens of the longest row, with the one to come.
    """

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self.offset = mx.array([], dtype=mx.int32)
        self.rows = mx.array([], dtype=mx.int32)
        self.reach = 1

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, row: int) -> int:
        return self._lengths[row]

    def set(self, lengths: Sequence[int]) -> None:
        """Take over other rows."""
        self._lengths = list(lengths)
        self.offset = mx.array(self._lengths, dtype=mx.int32)
        self.rows = mx.arange(len(self._lengths), dtype=mx.int32)
        self.reach = max(self._lengths, default=0) + 1

    def add(self, length: int) -> None:
        """Append a row."""
        self.set([*self._lengths, length])

    def advance(self) -> None:
        """Every row has one token more."""
        self._lengths = [length + 1 for length in self._lengths]
        self.offset = self.offset + 1
        self.reach += 1


class SlotKVCache:
    """The cache of one layer for all rows, to the model an mlx-lm batch cache for one token a step.

    Args:
        lengths: of the rows; the caller advances them after each step.
        capacity: tokens that a row has room for.
        first: rows that there is room for from the first one on.
        most: rows that it is made for.
    """

    def __init__(self, lengths: Lengths, capacity: int, first: int, most: int) -> None:
        self._first = first
        self._lengths = lengths
        self._capacity = capacity
        self._most = most
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def places(self) -> int:
        """Rows that there is room for without making more."""
        return 0 if self.keys is None else self.keys.shape[0]

    @property
    def offset(self) -> mx.array:
        """Position of the token to come, of shape ``(rows,)``."""
        return self._lengths.offset

    @property
    def state(self) -> tuple[mx.array | None, mx.array | None]:
        """The arrays, for evaluation."""
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        """Bytes of all places, used or not."""
        return 0 if self.keys is None or self.values is None else self.keys.nbytes + self.values.nbytes

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the new token of each row, ``(rows, heads, 1, dimension)``; return all keys and values so far."""
        if keys.shape[2] != 1:
            raise ValueError(f"{keys.shape[2]} tokens in a step, a decode step has 1")
        self.keys = self._with_room(self.keys, keys, len(self._lengths))
        self.values = self._with_room(self.values, values, len(self._lengths))
        self.keys[self._lengths.rows, :, self._lengths.offset] = keys[:, :, 0]
        self.values[self._lengths.rows, :, self._lengths.offset] = values[:, :, 0]
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Return both as far as the longest row reaches, of shape ``(rows, heads, reach, dimension)``."""
        assert self.keys is not None  # noqa: S101  rows joined before
        assert self.values is not None  # noqa: S101  likewise
        rows, reach = len(self._lengths), self._lengths.reach
        return self.keys[:rows, :, :reach], self.values[:rows, :, :reach]

    def make_mask(self, tokens: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Return which keys the token of each row sees, of shape ``(rows, 1, 1, reach)``."""
        places = mx.arange(self._lengths.reach, dtype=mx.int32)[None]
        last = self._lengths.offset[:, None]
        seen = places <= last
        if window_size is not None:
            seen = seen & (places > last - window_size)
        return seen[:, None, None]

    def join(self, cache: KVCache, row: int) -> None:
        """Take in what a text has so far as this row, the first one after the others.

        A text of one token has nothing yet; its first step makes room for it.
        """
        if cache.keys is None or cache.values is None:
            return
        if self.keys is None and not row and self._first == 1 and cache.keys.shape[2] == self._capacity:
            # It was read into a place of this size, which becomes the first one.
            self.keys, self.values = cache.keys, cache.values
            return
        self.keys = self._with_room(self.keys, cache.keys, row + 1)
        self.values = self._with_room(self.values, cache.values, row + 1)
        self.keys[row : row + 1, :, : cache.offset] = cache.keys[..., : cache.offset, :]
        self.values[row : row + 1, :, : cache.offset] = cache.values[..., : cache.offset, :]

    def filter(self, order: Sequence[int]) -> None:
        """Keep these rows, in this order; cheap when most stay where they are."""
        for row, source in enumerate(order):
            if source < row:
                raise ValueError("a row can only move to a place in front")
            length = self._lengths[source]
            if row == source or not length:
                continue
            assert self.keys is not None  # noqa: S101  it has tokens
            assert self.values is not None  # noqa: S101  likewise
            # Evaluated before it is written, so that the array is written in place.
            moved = [mx.contiguous(each[source : source + 1, :, :length]) for each in (self.keys, self.values)]
            mx.eval(moved)
            self.keys[row : row + 1, :, :length], self.values[row : row + 1, :, :length] = moved

    def compact(self) -> None:
        """Have no more places than rows; evaluate the state then."""
        if self.keys is not None and self.values is not None:
            rows = len(self._lengths)
            self.keys, self.values = mx.contiguous(self.keys[:rows]), mx.contiguous(self.values[:rows])

    def extract(self, row: int) -> KVCache:
        """Return a row that has tokens as a cache of its own."""
        assert self.keys is not None  # noqa: S101  it has tokens
        assert self.values is not None  # noqa: S101  likewise
        cache: Any = KVCache()  # type: ignore[no-untyped-call]
        length = self._lengths[row]
        cache.keys = mx.contiguous(self.keys[row : row + 1, :, :length])
        cache.values = mx.contiguous(self.values[row : row + 1, :, :length])
        cache.offset = length
        return cache  # type: ignore[no-any-return]

    def _with_room(self, held: mx.array | None, like: mx.array, rows: int) -> mx.array:
        """Return the array with room for so many rows, copied if there was too little."""
        _, heads, _, dimension = like.shape
        places = 0 if held is None else held.shape[0]
        if held is not None and rows <= places:
            return held
        more = grown(places, rows, self._most) if places else max(self._first, rows)
        larger = mx.zeros((more, heads, self._capacity, dimension), like.dtype)
        if held is not None:
            larger[:places] = held
        return larger
