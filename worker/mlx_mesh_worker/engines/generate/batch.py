"""Texts that grow together: one token each in a step, rows joining and leaving in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import mlx.core as mx
from mlx_lm.models.cache import KVCache, TokenBuffer, make_prompt_cache

from mlx_mesh_worker.engines.generate.logprobs import as_list, read_details, token_details
from mlx_mesh_worker.engines.generate.slots import Lengths, SlotKVCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_worker.engines.generate.row import Row

STATES_EVERY: Final = 64
"""Steps after which all caches are evaluated: what no token depends on would grow a graph without end."""

_begin: Final[Any] = mx.async_eval


class Token(NamedTuple):
    """A token that was chosen for a row.

    Attributes:
        sound: the model gave finite numbers for it.
        logprob: its log probability, and ``top`` the likeliest tokens with theirs; None unless asked for.
        error: what the row's own sampler or processor raised instead.
    """

    row: Row
    token: int
    sound: bool = True
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    error: Exception | None = None


class _Chosen(NamedTuple):
    """What a step has computed, perhaps not evaluated yet."""

    rows: list[Row]
    tokens: mx.array
    finite: mx.array
    details: dict[Row, tuple[mx.array, mx.array, mx.array]]
    errors: dict[Row, Exception]


class DecodeBatch:
    """Rows whose next tokens are computed in one pass of the model.

    A step starts the computation of the next tokens and then reads those of the step before, so that the model never
    waits for Python. :meth:`flush` reads them without starting anything.

    Args:
        model: of mlx-lm.
        capacity: tokens that a row has room for.
        most: rows that it may come to have.
        places: rows that it has room for from the beginning.
    """

    def __init__(self, model: Any, capacity: int, most: int, places: int = 1) -> None:
        self._model = model
        self._most = most
        self._places = places
        self.capacity = capacity
        self.rows: list[Row] = []
        self._lengths = Lengths()
        self._caches: list[Any] = []
        self._tokens: mx.array = mx.array([], dtype=mx.int32)
        self._contexts: dict[Row, Any] = {}
        self._unread: _Chosen | None = None
        self._steps = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the caches."""
        return sum(cache.nbytes for cache in self._caches)

    @property
    def unread(self) -> bool:
        """Whether tokens were computed and not read."""
        return self._unread is not None

    @property
    def places(self) -> int:
        """Rows that there is room for without making more."""
        return max((c.places for c in self._caches if isinstance(c, SlotKVCache)), default=len(self.rows))

    @property
    def reach(self) -> int:
        """Tokens of the longest row, with the one to come."""
        return self._lengths.reach

    def length(self, row: Row) -> int:
        """Return how many tokens of a row are in its cache."""
        return self._lengths[self.rows.index(row)]

    def join(self, row: Row, cache: Sequence[Any], token: mx.array | int) -> None:
        """Take a row in: its cache, and the token that comes next into the model."""
        if not self._caches:
            self._caches = [self._empty(layer) for layer in cache]
        place = len(self.rows)
        for index, (held, layer) in enumerate(zip(self._caches, cache, strict=True)):
            if isinstance(held, SlotKVCache):
                held.join(layer, place)
            elif held is None:
                self._caches[index] = type(layer).merge([layer])
            else:
                held.extend(type(layer).merge([layer]))
        self.rows.append(row)
        self._lengths.add(len(row.context) - 1)
        next_token = mx.array([token], dtype=mx.int32) if isinstance(token, int) else token
        self._tokens = mx.concatenate([self._tokens, next_token])
        if row.processors:
            make: Any = TokenBuffer  # mlx-lm has no types
            self._contexts[row] = make(row.context[:-1])
        mx.eval([cache.state for cache in self._caches], self._tokens)

    def step(self) -> list[Token]:
        """Start the computation of a token for each row; return the tokens of the step before."""
        before, self._unread = self._unread, self._start() if self.rows else None
        return self._read(before)

    def flush(self) -> list[Token]:
        """Return the tokens that were computed and not read."""
        unread, self._unread = self._unread, None
        return self._read(unread)

    def leave(self, rows: Sequence[Row]) -> None:
        """Take rows out; the last ones move to their places."""
        gone = {self.rows.index(row) for row in rows}
        left = len(self.rows) - len(gone)
        tail = [index for index in range(left, len(self.rows)) if index not in gone]
        order = [tail.pop() if index in gone else index for index in range(left)]
        for cache in self._caches if order else ():
            cache.filter(order)
        for row in rows:
            self._contexts.pop(row, None)
        self.rows = [self.rows[index] for index in order]
        self._lengths.set([self._lengths[index] for index in order])
        if order:
            self._tokens = self._tokens[mx.array(order)]
        else:
            self._caches = []
            self._tokens = mx.array([], dtype=mx.int32)

    def logits(self) -> mx.array:
        """Let the model read the next token of each row; return what follows, of shape ``(rows, vocabulary)``."""
        found: mx.array = self._model(self._tokens[:, None], cache=self._caches)[:, -1, :]
        self._lengths.advance()
        return found

    def follow(self, tokens: mx.array) -> None:
        """Set the token that comes next for each row, of shape ``(rows,)``."""
        self._tokens = tokens

    def compact(self) -> None:
        """Give back the places of rows that left."""
        if self.places > len(self.rows):
            for cache in self._caches:
                if isinstance(cache, SlotKVCache):
                    cache.compact()
            mx.eval([cache.state for cache in self._caches])

    def next_token(self, row: Row) -> mx.array:
        """Return the token that comes next into the model, of shape ``(1,)``."""
        place = self.rows.index(row)
        return self._tokens[place : place + 1]

    def cache_of(self, row: Row) -> tuple[list[Any], int]:
        """Return a row's cache and how many tokens it holds."""
        place = self.rows.index(row)
        if not self._lengths[place]:
            return make_prompt_cache(self._model), 0
        cache = [layer.extract(place) for layer in self._caches]
        mx.eval([layer.state for layer in cache])
        return cache, self._lengths[place]

    def _empty(self, layer: Any) -> Any:
        return SlotKVCache(self._lengths, self.capacity, self._places, self._most) if type(layer) is KVCache else None

    def _start(self) -> _Chosen:
        inputs, logits = self._tokens, self.logits()
        errors: dict[Row, Exception] = {}
        if self._contexts:
            logits = self._processed(logits, inputs, errors)
        tokens = self._chosen(logits, errors)
        asked = {row: place for place, row in enumerate(self.rows) if row.body.logprobs}
        details = {row: token_details(_logprobs(logits[place]), tokens[place]) for row, place in asked.items()}
        finite = mx.isfinite(mx.max(logits, axis=-1)) & ~mx.any(mx.isnan(logits), axis=-1)
        self.follow(tokens)
        chosen = _Chosen(list(self.rows), tokens, finite, details, errors)
        _begin(tokens, finite, list(details.values()))
        self._steps += 1
        if self._steps % STATES_EVERY == 0:
            mx.eval([cache.state for cache in self._caches])
        return chosen

    def _processed(self, logits: mx.array, inputs: mx.array, errors: dict[Row, Exception]) -> mx.array:
        """Return the logits after each row's own processors."""
        changed = []
        for place, row in enumerate(self.rows):
            own = logits[place : place + 1]
            context = self._contexts.get(row)
            if context is not None:
                try:
                    tokens = context.update_and_fetch(inputs[place : place + 1])
                    for process in row.processors:
                        own = process(tokens, own)
                except Exception as error:  # noqa: BLE001  the others of the batch are not to suffer
                    errors[row] = error
                    own = logits[place : place + 1]
            changed.append(own)
        return mx.concatenate(changed, axis=0)

    def _chosen(self, logits: mx.array, errors: dict[Row, Exception]) -> mx.array:
        """Return a token for each row: the likeliest, or that of the row's sampler."""
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        drawn: dict[int, mx.array] = {}
        for place, row in enumerate(self.rows):
            if row.sampler is None:
                continue
            try:
                drawn[place] = row.sampler(_logprobs(logits[place : place + 1])).astype(mx.int32)
            except Exception as error:  # noqa: BLE001  as above
                errors[row] = error
        if drawn:
            tokens[mx.array(list(drawn))] = mx.concatenate(list(drawn.values()))
        return tokens

    def _read(self, chosen: _Chosen | None) -> list[Token]:
        if chosen is None:
            return []
        mx.eval(chosen.tokens, chosen.finite, list(chosen.details.values()))
        tokens, finite = as_list(chosen.tokens), as_list(chosen.finite)
        here = set(self.rows)
        found = []
        for row, token, sound in zip(chosen.rows, tokens, finite, strict=True):
            if row not in here:
                continue
            detail = chosen.details.get(row)
            logprob, top = read_details(*detail, row.body.top_logprobs) if detail else (None, None)
            found.append(Token(row, token, sound, logprob, top, chosen.errors.get(row)))
        return found


def _logprobs(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
