"""Key-value caches of texts that were read before, found again by their longest common beginning."""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from mlx_lm.models.cache import ChunkedKVCache, can_trim_prompt_cache, trim_prompt_cache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PREFIX_MIN_TOKENS: Final = 8
"""A shorter common beginning is read again sooner than it is copied."""

_WIDTH: Final = 4
_TYPE: Final = ">u4"
"""Big-endian, so that the order of the bytes is that of the tokens."""


class _Entry(NamedTuple):
    cache: list[Any]
    size: int
    trimmable: bool
    system: bool


class PrefixCache:
    """Caches by their tokens, in lexical order: what shares most with a text stands right beside it.

    Args:
        max_bytes: what the caches may take together; the least recently used goes first, system prompts last.

    Attributes:
        max_bytes: as given.
        hits: prompts of which a beginning was found.
        saved_tokens: tokens that were not read again.
        nbytes: what the caches take.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._keys: list[bytes] = []
        self._entries: dict[bytes, _Entry] = {}
        self.hits = 0
        self.saved_tokens = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def fetch(self, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """Return a copy of the cache with the longest common beginning, and how many tokens it holds.

        At least one token of the text is left to be read, since the model has to say what follows it.
        """
        asked = _key(tokens)
        place = bisect_left(self._keys, asked)
        found = [self._nearest(asked, range(place, len(self._keys))), self._nearest(asked, range(place - 1, -1, -1))]
        best, use = max(found, key=lambda each: each[1])
        if not best:
            return None, 0
        entry = self._entries.pop(best)
        self._entries[best] = entry  # Behind the others: it was used last.
        cache = copy.deepcopy(entry.cache)
        if use < _length(best):
            trim_prompt_cache(cache, _length(best) - use)
        self.hits += 1
        self.saved_tokens += use
        return cache, use

    def store(self, tokens: Sequence[int], cache: list[Any], *, system: bool = False) -> None:
        """Keep the cache of a text, which nobody else may change; shorter ones that it holds too are dropped.

        Args:
            tokens: exactly those in the cache.
            cache: one for each layer.
            system: it is a system prompt, with which many texts begin.
        """
        size = sum(layer.nbytes for layer in cache)
        if len(tokens) < PREFIX_MIN_TOKENS or size > self.max_bytes // 2:
            return
        key = _key(tokens)
        system = system or (key in self._entries and self._entries[key].system)
        self._drop(key)
        # mlx-lm's chunked cache says that it can be trimmed, but its layers differ afterwards.
        trimmable = can_trim_prompt_cache(cache) and not any(isinstance(layer, ChunkedKVCache) for layer in cache)
        if trimmable and not system:
            for other in [o for o in self._beginnings(key) if not self._entries[o].system]:
                self._drop(other)
        insort(self._keys, key)
        self._entries[key] = _Entry(cache, size, trimmable, system)
        self.nbytes += size
        self.shrink(self.max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Forget what was used longest ago until the rest takes so much at most."""
        if self.nbytes <= max_bytes:
            return
        for key in sorted(self._entries, key=lambda key: self._entries[key].system):  # stable: by age within each
            self._drop(key)
            if self.nbytes <= max_bytes:
                return

    def clear(self) -> None:
        """Forget all."""
        self._keys.clear()
        self._entries.clear()
        self.nbytes = 0

    def _nearest(self, asked: bytes, places: range) -> tuple[bytes, int]:
        """Return the first key that is of use, and how many tokens of it; each further one shares as much or less."""
        for place in places:
            key = self._keys[place]
            shared = min(_common(key, asked), _length(asked) - 1)
            if shared < PREFIX_MIN_TOKENS:
                break
            if self._entries[key].trimmable or shared == _length(key):
                return key, shared
        return b"", 0

    def _beginnings(self, key: bytes) -> Iterator[bytes]:
        """Yield the keys with which this one begins, the longest first."""
        end = key
        while end:
            place = bisect_right(self._keys, end) - 1
            if place < 0:
                return
            found = self._keys[place]
            shared = _common(found, key) * _WIDTH
            if shared == len(found):
                yield found
                shared -= _WIDTH
            end = key[:shared]

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.nbytes -= entry.size
            del self._keys[bisect_left(self._keys, key)]


def _key(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, _TYPE).tobytes()


def _length(key: bytes) -> int:
    return len(key) // _WIDTH


def _common(one: bytes, other: bytes) -> int:
    """Return how many tokens two texts begin with alike."""
    count = min(len(one), len(other)) // _WIDTH
    differ = np.frombuffer(one, _TYPE, count) != np.frombuffer(other, _TYPE, count)
    place = int(differ.argmax()) if count else 0
    return place if count and differ[place] else count
