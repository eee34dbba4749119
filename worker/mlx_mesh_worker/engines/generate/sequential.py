"""Text one row at a time: for models that cannot be batched, and for drafting by a smaller model.

Offers what the engine uses of mlx-lm's ``BatchGenerator``. The tokens are the same with a draft as without one: each
place of the text is decided by the model alone, with the random number of that place. The draft only guesses what that
will be, so that one pass of the model decides several places (speculative decoding, Leviathan and others 2023,
arXiv:2211.17192; both models use the same random numbers). As with batches, this holds as far as the model gives the
same numbers for several tokens as for one: of nearly equal logits the other may win.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch, StopSequences, generation_stream
from mlx_lm.models.cache import TokenBuffer, make_prompt_cache, trim_prompt_cache
from mlx_lm.sample_utils import greedy_sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    Processor = Callable[[Any, mx.array], mx.array]
    Choice = tuple[mx.array, mx.array]
    """A token, of shape ``(1,)``, and the log probabilities it was chosen from, of shape ``(1, vocabulary)``."""

DRAFT_TOKENS: Final = 3
"""Guesses in a round, as in mlx-lm. More are rarely all right, and each costs a step of the draft model."""

SETTLE_STEPS: Final = 64
"""So often all of a cache is computed. What no token needs would otherwise wait, and keep what it is made of."""

CLEAR_STEPS: Final = 512
"""So often MLX's freed buffers are given back, as by ``BatchGenerator``: their sizes grow with the text."""

_UNBOUNDED: Final = sys.maxsize

_start: Final[Any] = mx.async_eval


@dataclass(eq=False)
class _Row:
    uid: int
    prompt: list[int]  # what is still to be read; the last token is read when the first is decided
    left: int
    cache: list[Any]
    tokens: list[int]  # exactly those in the cache
    sampler: Any
    processors: tuple[Processor, ...]
    matcher: Any
    total: int
    position: int
    begun: bool = False
    ahead: Choice | None = None  # being computed; the token before it is in the cache
    context: Any = None
    draft_cache: list[Any] | None = None
    draft_read: int = 0  # so many of the tokens are in the draft's cache
    last: int = field(init=False)  # the newest token that the cache does not hold
    opening: int = field(init=False)  # tokens to be read before the first is decided

    def __post_init__(self) -> None:
        self.last = self.prompt[-1]
        self.opening = len(self.tokens) + len(self.prompt) - 1

    @property
    def reading(self) -> bool:
        return len(self.prompt) > 1 or (self.draft_cache is not None and self.draft_read < self.opening)


class SequentialGenerator:
    """Generates for the row that came first until it ends, then for the next.

    Attributes:
        prefill_step_size: tokens of a prompt that are read in one ``next()``; may be changed at any time.
        drafted: tokens that the draft model guessed.
        accepted: those of them that came into a text.
    """

    def __init__(
        self, model: Any, *, draft: Any = None, draft_tokens: int = DRAFT_TOKENS, prefill_step_size: int = 2048
    ) -> None:
        """Take a model and, if wanted, a smaller one of the same vocabulary.

        Raises:
            ValueError: a cache of either model cannot be cut back, which a draft needs; or ``draft_tokens`` is below 1.
        """
        if draft_tokens < 1:
            raise ValueError(f"draft_tokens is {draft_tokens}, allowed is 1 or more")
        for name, each in (("model", model), ("draft", draft)) if draft is not None else ():
            fixed = {type(layer).__name__ for layer in make_prompt_cache(each) if not layer.is_trimmable()}
            if fixed:
                kinds = ", ".join(sorted(fixed))
                raise ValueError(f"{name}: its cache ({kinds}) cannot be cut back, so no draft model can be used")
        self._model = model
        self._draft = draft
        self._draft_tokens = draft_tokens
        self._rows: list[_Row] = []
        self._uids = 0
        self._steps = 0
        self.prefill_step_size = prefill_step_size
        self.drafted = 0
        self.accepted = 0

    def insert(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: Sequence[int],
        *,
        caches: Sequence[list[Any] | None] | None = None,
        all_tokens: Sequence[Sequence[int]] | None = None,
        samplers: Sequence[Any] | None = None,
        logits_processors: Sequence[Sequence[Processor] | None] | None = None,
        stop_sequences: Sequence[Any] | None = None,
    ) -> list[int]:
        """Queue rows and return their numbers. ``all_tokens`` are those that ``caches`` hold, which are changed.

        A sampler with the attribute ``position`` is told the place of each token, counted from what it is now. A
        processor with ``stateful = True`` keeps its row from being drafted, so that it sees each place once, in order.

        Raises:
            ValueError: a prompt is empty, one of ``max_tokens`` is below 1, or the arguments differ in length.
        """
        none: list[None] = [None] * len(prompts)
        columns = (max_tokens, *(c or none for c in (caches, all_tokens, samplers, logits_processors, stop_sequences)))
        rows: list[_Row] = []
        for prompt, limit, cache, known, sampler, processors, stops in zip(prompts, *columns, strict=True):
            if not prompt:
                raise ValueError(f"prompts: number {len(rows)} is empty, it needs one token at least")
            if limit < 1:
                raise ValueError(f"max_tokens: number {len(rows)} is {limit}, allowed is 1 or more")
            row = _Row(
                uid=self._uids + len(rows),
                prompt=list(prompt),
                left=limit,
                cache=make_prompt_cache(self._model) if cache is None else cache,
                tokens=list(known or ()),
                sampler=greedy_sampler if sampler is None else sampler,
                processors=tuple(processors or ()),
                matcher=(StopSequences() if stops is None else stops).matcher(),
                total=len(prompt),
                position=getattr(sampler, "position", 0),
            )
            rows.append(row)
        self._uids += len(rows)
        self._rows += rows
        return [row.uid for row in rows]

    def next(self) -> tuple[list[Any], list[Any]]:
        """Do one unit of the first row: read a piece of its prompt, or decide its next token, or a round of them.

        Returns:
            What was read and what was generated, in the types of ``BatchGenerator``; both empty if there is no row. A
            round with a draft may give several tokens of the row, in their order. ``all_tokens`` of the last one are
            exactly those in ``prompt_cache``, so a last token that the model need not read is not among them.
        """
        if not self._rows:
            return [], []
        row = self._rows[0]
        with mx.stream(generation_stream):
            if not row.begun:
                self._begin(row)
            if row.reading:
                self._read(row)
                done = not row.reading
                progress = (row.total if done else row.total - len(row.prompt), row.total)
                return [PromptProcessingBatch.Response(row.uid, progress, done, done)], []
            guesses = self._guesses(row)
            responses = self._round(row, guesses) if guesses else [self._decode(row)]
            self._settle(row)
        return [], responses

    def remove(
        self, uids: Collection[int], return_prompt_caches: bool = False
    ) -> dict[int, tuple[list[Any], list[int]]]:
        """Take rows out, in whatever stage they are; return their caches and the tokens that these hold, if wanted."""
        gone = [row for row in self._rows if row.uid in uids]
        self._rows = [row for row in self._rows if row.uid not in uids]
        return {row.uid: (row.cache, row.tokens) for row in gone} if return_prompt_caches else {}

    @property
    def prompt_cache_nbytes(self) -> int:
        """What the caches of all rows take, those of the draft model too."""
        return sum(int(layer.nbytes) for row in self._rows for layer in (*row.cache, *(row.draft_cache or ())))

    def close(self) -> None:
        """Let all rows go; the generator can be used again."""
        self._rows.clear()

    def _begin(self, row: _Row) -> None:
        row.begun = True
        if self._draft is None or row.left < 2 or any(getattr(each, "stateful", False) for each in row.processors):  # noqa: PLR2004
            return
        cache = make_prompt_cache(self._draft)
        if _room(row.cache) > row.opening - len(row.tokens) + 1 and _room(cache) > row.opening:
            row.draft_cache = cache

    def _read(self, row: _Row) -> None:
        """Read a piece of the prompt; when the model has read it all, the draft model does so."""
        most = max(1, self.prefill_step_size)
        if len(row.prompt) > 1:
            piece = row.prompt[: min(most, len(row.prompt) - 1)]
            model, cache = self._model, row.cache
            del row.prompt[: len(piece)]
            row.tokens += piece
        else:
            piece = row.tokens[row.draft_read : row.draft_read + most]
            model, cache = self._draft, row.draft_cache or []
            row.draft_read += len(piece)
        model(mx.array([piece]), cache=cache)
        mx.eval([layer.state for layer in cache])
        mx.clear_cache()

    def _settle(self, row: _Row) -> None:
        self._steps += 1
        if self._steps % SETTLE_STEPS == 0:
            mx.eval([layer.state for layer in (*row.cache, *(row.draft_cache or ()))])
        if self._steps % CLEAR_STEPS == 0:
            mx.clear_cache()

    def _decode(self, row: _Row) -> Any:
        """Decide one token. The next one is begun before this one is waited for, so that the device is not idle."""
        if row.ahead is None:
            row.ahead = self._begin_token(row, mx.array([row.last], mx.uint32))
            row.tokens.append(row.last)
        chosen, logprobs = row.ahead
        more = row.left > 1
        if more:
            row.ahead = self._begin_token(row, chosen)
        mx.eval(chosen, logprobs)
        token = _int(chosen)
        if more:
            row.tokens.append(token)
        return self._response(row, token, logprobs[0], self._ends(row, token))

    def _begin_token(self, row: _Row, last: mx.array) -> Choice:
        ahead = row.position if row.ahead is None else row.position + 1
        logits = self._model(last[None], cache=row.cache)[:, -1, :]
        context = None
        if row.processors:
            if row.context is None:
                row.context = TokenBuffer(row.tokens)  # type: ignore[no-untyped-call]
            context = row.context.update_and_fetch(last)
        choice = _choose(row, logits, context, ahead)
        _start(choice, [] if context is None else [context])
        return choice

    def _guesses(self, row: _Row) -> int:
        """Return how many tokens to draft. None for the rest of the row when a cache could not be cut back any more."""
        if row.draft_cache is None:
            return 0
        behind = len(row.tokens) - row.draft_read
        room = min(_room(row.cache) - 1, _room(row.draft_cache) - behind)
        guesses = min(self._draft_tokens, row.left - 1, room)
        if guesses < 1:
            row.draft_cache = None
        return max(0, guesses)

    def _round(self, row: _Row, count: int) -> list[Any]:
        """Draft tokens, let the model decide all their places and one more in one pass, keep those that agree."""
        drafted = self._propose(row, count)
        inputs = mx.concatenate([mx.array([row.last], mx.uint32), *drafted])
        logits = self._model(inputs[None], cache=row.cache)[0]
        came: list[tuple[int, mx.array, str | None]] = []
        agreed = 0
        for place, (token, logprobs) in enumerate(_verify(row, logits, inputs)):
            reason = self._ends(row, token)
            came.append((token, logprobs, reason))
            right = place < count and token == _int(drafted[place])
            agreed += right
            if reason or not right:
                break
        self.drafted += count
        self.accepted += agreed
        trim_prompt_cache(row.cache, count - agreed)
        trim_prompt_cache(row.draft_cache or [], max(0, count - 1 - agreed))
        row.draft_read = len(row.tokens) + min(count, agreed + 1)
        row.tokens += [row.last, *(token for token, _, _ in came[:agreed])]
        row.last = came[-1][0]
        _place(row, row.position)
        return [self._response(row, *each) for each in came]

    def _propose(self, row: _Row, count: int) -> list[mx.array]:
        """Return what the draft model says, chosen as the row's tokens are, as arrays of shape ``(1,)``."""
        fed = mx.array([*row.tokens[row.draft_read :], row.last], mx.uint32)
        context = mx.array([*row.tokens, row.last], mx.int32) if row.processors else None
        drafted: list[mx.array] = []
        for place in range(row.position, row.position + count):
            logits = self._draft(fed[None], cache=row.draft_cache)[:, -1, :]
            fed, _ = _choose(row, logits, context, place)
            _start(fed)
            drafted.append(fed)
            if context is not None:
                context = mx.concatenate([context, fed.astype(mx.int32)])
        return drafted

    def _ends(self, row: _Row, token: int) -> str | None:
        row.position += 1
        row.left -= 1
        return "stop" if row.matcher.advance(token) else None if row.left else "length"

    def _response(self, row: _Row, token: int, logprobs: mx.array, reason: str | None) -> Any:
        if reason is None:
            return GenerationBatch.Response(row.uid, token, logprobs, None, None, None)
        self._rows.remove(row)
        return GenerationBatch.Response(row.uid, token, logprobs, reason, row.cache, row.tokens)


def _choose(row: _Row, logits: mx.array, context: mx.array | None, position: int) -> Choice:
    """Choose a token by logits of shape ``(1, vocabulary)``, behind the tokens of ``context``."""
    for processor in row.processors:
        logits = processor(context, logits)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    _place(row, position)
    return row.sampler(logprobs), logprobs


def _int(token: mx.array) -> int:
    value: Any = token.item()
    return int(value)


def _place(row: _Row, position: int) -> None:
    if hasattr(row.sampler, "position"):
        row.sampler.position = position


def _verify(row: _Row, logits: mx.array, inputs: mx.array) -> Iterator[tuple[int, mx.array]]:
    """Yield the model's own token behind each of the inputs, and its log probabilities of shape ``(vocabulary,)``.

    All are computed at once, but with processors each when it is asked for: they see no text that turned out wrong.
    """
    places = range(row.position, row.position + len(inputs))
    if not row.processors:
        choices = [_choose(row, logits[n : n + 1], None, place) for n, place in enumerate(places)]
        mx.eval(inputs, choices)
        yield from ((_int(token), logprobs[0]) for token, logprobs in choices)
        return
    known = len(row.tokens)
    context = mx.concatenate([mx.array(row.tokens, mx.int32), inputs.astype(mx.int32)])
    for n, place in enumerate(places):
        token, logprobs = _choose(row, logits[n : n + 1], context[: known + n + 1], place)
        yield _int(token), logprobs[0]


def _room(cache: Sequence[Any]) -> int:
    """Return how many more tokens can be read so that they can still be taken back."""
    room = _UNBOUNDED
    for layer in cache:
        if not layer.is_trimmable():
            return 0
        if hasattr(layer, "caches"):
            room = min(room, _room(layer.caches))
        elif hasattr(layer, "max_size"):  # a sliding window is overwritten once it is full
            room = min(room, layer.max_size - 1 - layer.offset)
    return room
