"""Key-value caches of texts that were read before, found again by their longest common beginning."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from mlx_lm.models.cache import PromptTrie, can_trim_prompt_cache, trim_prompt_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX_MAX_BYTES: Final = 512 * 1024 * 1024
"""What the caches may take together; the least recently used goes first."""

PREFIX_MIN_TOKENS: Final = 8
"""A shorter common beginning is read again sooner than it is copied."""

_MODEL: Final = "model"


class PrefixCache:
    """Caches by their tokens.

    Attributes:
        hits: prompts of which a beginning was found.
        saved_tokens: tokens that were not read again.
        nbytes: what the caches take.
    """

    def __init__(self, max_bytes: int = PREFIX_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._trie: Any = _new_trie()
        self._sizes: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self.hits = 0
        self.saved_tokens = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def fetch(self, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """Return a copy of the cache with the longest common beginning, and how many tokens it holds.

        At least one token of the prompt is left to be read, since the model has to say what follows it.
        """
        found = self._trie.search(_MODEL, list(tokens))
        for known in (found.exact, found.longer, found.shorter):
            if known is None:
                continue
            shared = _common(known, tokens)
            use = min(shared, len(tokens) - 1)
            cache = self._trie.get(_MODEL, known)
            if use < PREFIX_MIN_TOKENS or (use < len(known) and not can_trim_prompt_cache(cache)):
                continue
            cache = copy.deepcopy(cache)
            if use < len(known):
                trim_prompt_cache(cache, len(known) - use)
            self._sizes.move_to_end(tuple(known))
            self.hits += 1
            self.saved_tokens += use
            return cache, use
        return None, 0

    def store(self, tokens: Sequence[int], cache: list[Any]) -> None:
        """Keep the cache of a text; those of its beginnings are in it."""
        size = sum(layer.nbytes for layer in cache)
        if len(tokens) < PREFIX_MIN_TOKENS or size > self._max_bytes // 2:
            return
        key = tuple(tokens)
        if key in self._sizes:
            self._drop(key)
        self._trie.add(_MODEL, list(tokens), cache)
        self._sizes[key] = size
        self.nbytes += size
        if can_trim_prompt_cache(cache):
            for length, _ in self._trie.pop_prefixes(_MODEL, list(tokens)):
                self._forget(key[:length])
        while self.nbytes > self._max_bytes:
            self._drop(next(iter(self._sizes)))

    def clear(self) -> None:
        """Forget all."""
        self._trie = _new_trie()
        self._sizes.clear()
        self.nbytes = 0

    def _drop(self, key: tuple[int, ...]) -> None:
        self._trie.pop(_MODEL, list(key))
        self._forget(key)

    def _forget(self, key: tuple[int, ...]) -> None:
        self.nbytes -= self._sizes.pop(key)


def _common(known: Sequence[int], tokens: Sequence[int]) -> int:
    differ = (n for n, (a, b) in enumerate(zip(known, tokens, strict=False)) if a != b)
    return next(differ, min(len(known), len(tokens)))


def _new_trie() -> Any:
    make: Any = PromptTrie  # mlx-lm has no types
    return make()
