"""Bodies of ``generate`` and ``chat``: what they may hold, checked field by field. Imports no MLX."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_worker.engines.generate.chat import check_messages, check_tools
from mlx_mesh_worker.engines.generate.refusal import refusal
from mlx_mesh_worker.engines.generate.schema_text import schema_text

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOKENS_DEFAULT: Final = 256
PROMPT_MAX_TOKENS: Final = 2**20
"""More than any model reads; each id is checked."""

STOPS_MAX: Final = 16
STOP_MAX_CHARS: Final = 256
"""Strings that end a text: each is looked for after every token."""

STOP_TOKENS_MAX: Final = 64
BIASES_MAX: Final = 1024
TOP_LOGPROBS_MAX: Final = 20
SEED_MAX: Final = 2**53 - 1
"""What JavaScript's numbers carry."""

_NUMBERS: Final[dict[str, tuple[type, float, float, float]]] = {
    # field: kind, lowest, highest, default
    "max_tokens": (int, 1, 2**20, MAX_TOKENS_DEFAULT),
    "temperature": (float, 0.0, 10.0, 0.0),
    "top_p": (float, 0.0, 1.0, 1.0),
    "top_k": (int, 0, 2**20, 0),
    "min_p": (float, 0.0, 1.0, 0.0),
    "seed": (int, 0, SEED_MAX, 0),
    "repetition_penalty": (float, 0.0, 10.0, 0.0),
    "presence_penalty": (float, -10.0, 10.0, 0.0),
    "frequency_penalty": (float, -10.0, 10.0, 0.0),
    "top_logprobs": (int, 0, TOP_LOGPROBS_MAX, 0),
}
_NOT_SAMPLING: Final = ("max_tokens", "top_logprobs")
_OF_OP: Final = {"generate": ("prompt",), "chat": ("messages", "tools")}
_OF_BOTH: Final = ("stop", "stop_tokens", "logit_bias", "logprobs", "json_schema")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. The defaults choose the likeliest one."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerateBody:
    """A checked body.

    Attributes:
        prompt: a text, token ids, or for ``chat`` a list of messages, their contents made texts.
        tools: descriptions of tools for the chat template, passed on as they are.
        max_tokens: how many tokens to generate at most.
        stop: strings that end the text; they are not part of it.
        stop_tokens: token ids that do the same.
        logprobs: whether to tell the log probability of each token.
        top_logprobs: how many of the likeliest tokens to tell at each place; 0 without ``logprobs``.
        json_schema: JSON text of the schema that the text is held to; not compiled yet.
    """

    prompt: str | list[int] | list[dict[str, Any]]
    sampling: Sampling
    max_tokens: int = MAX_TOKENS_DEFAULT
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    tools: list[Any] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    json_schema: str | None = None


def parse_body(op: str, body: Any, vocabulary: int) -> GenerateBody:
    """Return the checked body of a ``generate`` or a ``chat``.

    Args:
        op: which of the two.
        body: as decoded.
        vocabulary: ids from 0 up to this (excluded) are tokens.

    Raises:
        mlx_mesh_wire.InvalidRequestError: naming the field, the index in a list, what was given and what is allowed.
    """
    if not isinstance(body, dict):
        raise refusal("body", body, "a map")
    own = (*_OF_OP[op], *_OF_BOTH)
    allowed = (*own, *_NUMBERS)
    unknown = next((key for key in body if key not in allowed), None)
    if unknown is not None:
        raise refusal(unknown, body[unknown], f"no field of this name; there are {', '.join(allowed)}")
    numbers = {name: _number(name, body) for name in _NUMBERS}
    others = {name: _other(name, body.get(name), vocabulary) for name in own}
    if numbers["top_logprobs"] and not others["logprobs"]:
        raise refusal("top_logprobs", numbers["top_logprobs"], "0, unless logprobs is true")
    sampling = {name: value for name, value in numbers.items() if name not in _NOT_SAMPLING}
    return GenerateBody(
        prompt=others.pop(_OF_OP[op][0]),
        sampling=Sampling(**sampling, logit_bias=others.pop("logit_bias")),
        **{name: numbers[name] for name in _NOT_SAMPLING},
        **others,
    )


def _other(name: str, given: Any, vocabulary: int) -> Any:
    return _TOKEN_FIELDS[name](given, vocabulary) if name in _TOKEN_FIELDS else _FIELDS[name](given)


def _number(name: str, body: dict[str, Any]) -> Any:
    kind, low, high, default = _NUMBERS[name]
    given = body.get(name, default)
    fits = type(given) is int or (kind is float and type(given) is float and isfinite(given))
    if not fits or not low <= given <= high:
        raise refusal(name, given, f"{'an integer' if kind is int else 'a number'} from {low:.17g} to {high:.17g}")
    return kind(given)


def _prompt(given: Any, vocabulary: int) -> str | list[int]:
    if isinstance(given, str) and given:
        return given
    if isinstance(given, list) and given:
        return _tokens("prompt", given, vocabulary, PROMPT_MAX_TOKENS)
    raise refusal("prompt", given, "a text, or a list of token ids, that is not empty")


def _tokens(name: str, given: Any, vocabulary: int, most: int) -> list[int]:
    if not isinstance(given, list) or len(given) > most:
        raise refusal(name, given, f"a list of token ids, {most} at most")
    for index, token in enumerate(given):
        if type(token) is not int or not 0 <= token < vocabulary:
            raise refusal(name, token, f"token ids from 0 to {vocabulary - 1}", index)
    return given


def _stop_tokens(given: Any, vocabulary: int) -> tuple[int, ...]:
    return () if given is None else tuple(_tokens("stop_tokens", given, vocabulary, STOP_TOKENS_MAX))


def _stop(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    every = [given] if isinstance(given, str) else given
    if not isinstance(every, list) or len(every) > STOPS_MAX:
        raise refusal("stop", given, f"a string, or a list of {STOPS_MAX} strings at most")
    for index, stop in enumerate(every):
        if not isinstance(stop, str) or not 1 <= len(stop) <= STOP_MAX_CHARS:
            raise refusal("stop", stop, f"strings of 1 to {STOP_MAX_CHARS} characters", index)
    return tuple(every)


def _bias(given: Any, vocabulary: int) -> dict[int, float]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > BIASES_MAX:
        raise refusal("logit_bias", given, f"a map of {BIASES_MAX} token ids (as strings) at most to numbers")
    digits = len(str(vocabulary))
    found = {}
    for token, bias in given.items():
        numeral = token.isascii() and token.isdecimal() and len(token) <= digits
        if not numeral or int(token) >= vocabulary:
            raise refusal("logit_bias", token, f"token ids from 0 to {vocabulary - 1}, as strings")
        if type(bias) not in (int, float) or not -100 <= bias <= 100:  # noqa: PLR2004  the usual bounds
            raise refusal("logit_bias", bias, "numbers from -100 to 100")
        found[int(token)] = float(bias)
    return found


def _logprobs(given: Any) -> bool:
    if given is not None and type(given) is not bool:
        raise refusal("logprobs", given, "true or false")
    return bool(given)


def _schema(given: Any) -> str | None:
    return None if given is None else schema_text(given)


_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {
    "messages": check_messages,
    "tools": check_tools,
    "stop": _stop,
    "logprobs": _logprobs,
    "json_schema": _schema,
}
_TOKEN_FIELDS: Final[dict[str, Callable[[Any, int], Any]]] = {
    "prompt": _prompt,
    "stop_tokens": _stop_tokens,
    "logit_bias": _bias,
}
"""Fields that are no numbers. A check gets what was given, None if nothing was, and here the number of token ids."""
