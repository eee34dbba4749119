"""Bodies of ``generate`` and ``chat``: what they may hold, checked field by field. Imports no MLX."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from mlx_mesh_wire import InvalidRequestError

MAX_TOKENS_DEFAULT: Final = 256
STOPS_MAX: Final = 16
STOP_MAX_CHARS: Final = 256
"""Strings that end a text: each is looked for after every token."""

STOP_TOKENS_MAX: Final = 64
BIASES_MAX: Final = 1024
MESSAGES_MAX: Final = 4096
SEED_MAX: Final = 2**53 - 1
"""What JavaScript's numbers carry."""

ROLES: Final = ("system", "user", "assistant", "tool")

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
}
_OTHERS: Final = ("stop", "stop_tokens", "logit_bias")


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
        prompt: a text, token ids, or for ``chat`` a list of messages.
        tools: descriptions of tools for the chat template, passed on as they are.
        max_tokens: how many tokens to generate at most.
        stop: strings that end the text; they are not part of it.
        stop_tokens: token ids that do the same.
    """

    prompt: str | list[int] | list[dict[str, Any]]
    sampling: Sampling
    max_tokens: int = MAX_TOKENS_DEFAULT
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    tools: list[Any] | None = None


def parse_body(op: str, body: Any, vocabulary: int) -> GenerateBody:
    """Return the checked body of a ``generate`` or a ``chat``.

    Args:
        op: which of the two.
        body: as decoded.
        vocabulary: ids from 0 up to this (excluded) are tokens.

    Raises:
        InvalidRequestError: naming the field, what was given and what is allowed.
    """
    if not isinstance(body, dict):
        raise _bad("body", body, "a map")
    own = ("prompt",) if op == "generate" else ("messages", "tools")
    allowed = (*own, *_NUMBERS, *_OTHERS)
    unknown = next((key for key in body if key not in allowed), None)
    if unknown is not None:
        raise _bad(unknown, body[unknown], f"no field of this name; there are {', '.join(allowed)}")
    numbers = {name: _number(name, body) for name in _NUMBERS}
    sampling = Sampling(
        **{name: value for name, value in numbers.items() if name != "max_tokens"},
        logit_bias=_bias(body.get("logit_bias"), vocabulary),
    )
    return GenerateBody(
        prompt=_prompt(body.get("prompt"), vocabulary) if op == "generate" else _messages(body.get("messages")),
        sampling=sampling,
        max_tokens=int(numbers["max_tokens"]),
        stop=_stop(body.get("stop")),
        stop_tokens=tuple(_tokens("stop_tokens", body.get("stop_tokens", []), vocabulary, STOP_TOKENS_MAX)),
        tools=_tools(body.get("tools")),
    )


def _number(name: str, body: dict[str, Any]) -> Any:
    kind, low, high, default = _NUMBERS[name]
    given = body.get(name, default)
    fits = type(given) is int or (kind is float and type(given) is float and isfinite(given))
    if not fits or not low <= given <= high:
        raise _bad(name, given, f"{'an integer' if kind is int else 'a number'} from {low:g} to {high:g}")
    return kind(given)


def _prompt(given: Any, vocabulary: int) -> str | list[int]:
    if isinstance(given, str) and given:
        return given
    if isinstance(given, list) and given:
        return _tokens("prompt", given, vocabulary, None)
    raise _bad("prompt", given, "a text, or a list of token ids, that is not empty")


def _tokens(name: str, given: Any, vocabulary: int, most: int | None) -> list[int]:
    if not isinstance(given, list) or (most is not None and len(given) > most):
        raise _bad(name, given, "a list of token ids" + ("" if most is None else f", {most} at most"))
    for index, token in enumerate(given):
        if type(token) is not int or not 0 <= token < vocabulary:
            raise _bad(name, token, f"token ids from 0 to {vocabulary - 1}", index)
    return given


def _stop(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    every = [given] if isinstance(given, str) else given
    if not isinstance(every, list) or len(every) > STOPS_MAX:
        raise _bad("stop", given, f"a string, or a list of {STOPS_MAX} strings at most")
    for index, stop in enumerate(every):
        if not isinstance(stop, str) or not 1 <= len(stop) <= STOP_MAX_CHARS:
            raise _bad("stop", stop, f"strings of 1 to {STOP_MAX_CHARS} characters", index)
    return tuple(every)


def _bias(given: Any, vocabulary: int) -> dict[int, float]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > BIASES_MAX:
        raise _bad("logit_bias", given, f"a map of {BIASES_MAX} token ids (as strings) at most to numbers")
    found = {}
    for token, bias in given.items():
        if not token.isdecimal() or not 0 <= int(token) < vocabulary:
            raise _bad("logit_bias", token, f"token ids from 0 to {vocabulary - 1}, as strings")
        if type(bias) not in (int, float) or not -100 <= bias <= 100:  # noqa: PLR2004  the usual bounds
            raise _bad("logit_bias", bias, "numbers from -100 to 100")
        found[int(token)] = float(bias)
    return found


def _messages(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not 1 <= len(given) <= MESSAGES_MAX:
        raise _bad("messages", given, f"a list of 1 to {MESSAGES_MAX} messages")
    for index, message in enumerate(given):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise _bad("messages", message, f"maps with a role, one of {', '.join(ROLES)}", index)
        if not isinstance(message.get("content", ""), str | None):
            raise _bad("messages", message["content"], "a text as content", index)
    return given


def _tools(given: Any) -> list[Any] | None:
    if given is not None and not isinstance(given, list):
        raise _bad("tools", given, "a list")
    return given


def _bad(name: str, given: Any, allowed: str, index: int | None = None) -> InvalidRequestError:
    where: dict[str, Any] = {"field": name} if index is None else {"field": name, "index": index}
    place = name if index is None else f"{name}[{index}]"
    return InvalidRequestError(f"{place} is {str(given)[:80]!r}; allowed: {allowed}", details=where)
