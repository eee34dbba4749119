"""Holds a text to a JSON schema: which tokens may come next, by llguidance, as a processor of logits.

llguidance is imported when the first request asks for a schema, not before.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_mesh_wire import EngineError, InvalidRequestError
from mlx_mesh_worker.engines.generate.schema_text import schema_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher

GRAMMARS_MAX: Final = 64
"""Compiled schemas that are kept for the next request with the same one; the least recently used goes first."""

OVERLAP: Final = 32
"""Tokens at the end of the known text that are compared again: as many may have been replaced by others."""

MESSAGE_MAX: Final = 400
"""Characters of llguidance's messages that are passed on; it quotes schemas at length."""

_WHERE: Final = {"field": "json_schema"}
_BITS: Final = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_TABLE: Final = np.where(_BITS, np.float32(0), np.float32(-np.inf))
"""What eight bits of a mask add to eight logits. Adding takes a tenth of the time of ``mx.where`` on a CPU."""


class Grammar(NamedTuple):
    """A schema that was compiled.

    Attributes:
        schema: its text.
        matcher: at the beginning of a text; rows get copies.
    """

    schema: str
    matcher: LLMatcher


class SchemaCompiler:
    """Makes grammars of schemas for one model.

    Making it takes about a second for a vocabulary of 128,000, and for a usual schema compiling takes a millisecond.

    Args:
        tokenizer: mlx-lm's wrapper of a fast tokenizer of Hugging Face.
        vocabulary: number of token ids that the model has logits for; the tokenizer may have fewer.
        end_tokens: ids that end a text. They never stand inside it.

    Raises:
        InvalidRequestError: llguidance is not installed, cannot work with this tokenizer, or no token ends a text.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, end_tokens: Sequence[int]) -> None:
        if not end_tokens:
            raise _unable("the model has no token that ends a text")
        inner = tokenizer._tokenizer  # noqa: SLF001  the wrapper has no other way to what it wraps
        backend = getattr(inner, "backend_tokenizer", None)
        if backend is None:
            raise _unable(f"it needs a fast tokenizer, and the model has {type(inner).__name__}")
        self._ends = sorted(end_tokens)
        try:
            from llguidance.hf import from_tokenizer

            size = max(vocabulary, backend.get_vocab_size(with_added_tokens=True))
            self._tokenizer = from_tokenizer(inner, n_vocab=size, eos_token=self._ends)
        except Exception as error:
            raise _unable(f"llguidance cannot work with the model's tokenizer: {_short(str(error))}") from error
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, schema: Any) -> Grammar:
        """Return the grammar of a schema: a map, its JSON text, or True for any JSON object.

        Raises:
            InvalidRequestError: it cannot be compiled, or holds no text at all; the message is llguidance's.
        """
        text = schema_text(schema)
        known = self._grammars.pop(text, None)
        self._grammars[text] = grammar = known or Grammar(text, self._compile(text))
        if len(self._grammars) > GRAMMARS_MAX:
            self._grammars.popitem(last=False)
        return grammar

    def processor(self, grammar: Grammar, prompt_length: int) -> SchemaProcessor:
        """Return the processor of one row, as mlx-lm calls it.

        Args:
            grammar: what to hold the text to.
            prompt_length: tokens of the context that come before the text; the grammar begins after them.
        """
        return SchemaProcessor(grammar, prompt_length, self._ends)

    def _compile(self, text: str) -> LLMatcher:
        from mlx_mesh_worker.engines.generate.schema_check import build, check, is_doubtful

        wrong = check(text) if is_doubtful(text) else ""
        if not wrong:
            try:
                matcher, wrong = build(self._tokenizer, text)
            except ValueError as error:  # it is no JSON for llguidance, which allows 128 levels
                wrong = str(error)
        if wrong:
            raise InvalidRequestError(f"json_schema cannot be compiled: {_short(wrong)}", details=_WHERE)
        return matcher


class SchemaProcessor:
    """Leaves those tokens of a row that go on with JSON of its schema, and end tokens where it may end.

    It finds its place from the length of the context alone, and so may be made anew for a text that has begun, or be
    given a shorter context than before.

    Raises:
        EngineError: from a call; the tokens do not fit the schema, or a bound of llguidance was reached.
    """

    def __init__(self, grammar: Grammar, prompt_length: int, end_tokens: Sequence[int]) -> None:
        self._matcher = grammar.matcher.deep_copy()
        self._prompt_length = prompt_length
        self._ends = list(end_tokens)
        self._tokens: list[int] = []
        self._fed = 0
        """Tokens that the matcher has got: all up to the first end token, which it is spared."""

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return the logits, of shape ``(1, width)``, with minus infinity for what may not come.

        Args:
            tokens: all of the context, those of the prompt included.
            logits: of the token to come. Ids that the tokenizer does not have are never allowed.
        """
        mx.async_eval(logits)  # type: ignore[no-untyped-call]  # The model computes while the mask is made.
        self._follow(tokens)
        return logits + self._bias(logits.shape[-1]).astype(logits.dtype)

    def _follow(self, tokens: mx.array) -> None:
        """Bring the matcher to the end of the context."""
        length = tokens.shape[0] - self._prompt_length
        if length < 0:
            raise EngineError(f"json_schema: the context is {-length} tokens shorter than the prompt")
        start = max(0, min(length, len(self._tokens)) - OVERLAP)
        given: list[int] = tokens[self._prompt_length + start :].tolist()  # type: ignore[assignment]
        known = self._tokens[start:]
        same = next(
            (n for n, (a, b) in enumerate(zip(given, known, strict=False)) if a != b), min(len(given), len(known))
        )
        self._rewind(start + same)
        for token in given[same:]:
            self._take(token)

    def _rewind(self, length: int) -> None:
        del self._tokens[length:]
        if self._fed > length:
            self._matcher.rollback(self._fed - length)
            self._fed = length
            self._check()

    def _take(self, token: int) -> None:
        if self._fed == len(self._tokens) and token not in self._ends:
            self._matcher.consume_token(token)
            self._check()
            self._fed += 1
        self._tokens.append(token)

    def _bias(self, width: int) -> mx.array:
        """Return 0 for each id that may come and minus infinity for the others, of shape ``(1, width)``."""
        ended = self._fed < len(self._tokens)
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        bias = _TABLE.take(mask, axis=0).reshape(-1)
        if ended:
            bias[:] = -np.inf
        bias[self._ends] = 0 if ended or self._matcher.is_accepting() else -np.inf
        if width > bias.size:
            bias = np.pad(bias, (0, width - bias.size), constant_values=-np.inf)
        return mx.array(bias[:width])[None]

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(f"json_schema, token {len(self._tokens)}: {_short(self._matcher.get_error())}")


def _short(message: str) -> str:
    """Return a message of llguidance on one line, the middle of a long one left out."""
    line = " ".join(message.replace("<non-verbose/>", "").split())
    half = MESSAGE_MAX // 2
    return line if len(line) <= MESSAGE_MAX else f"{line[:half]} ... {line[-half:]}"


def _unable(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"json_schema cannot be served: {why}", details=_WHERE)
