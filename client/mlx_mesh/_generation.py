"""Text that is generated: what to ask for, and what comes."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict

from mlx_mesh._affinity import chat_affinity, prompt_affinity
from mlx_mesh._options import BODY_MAX_BYTES, BODY_MAX_FRAMES, check_window, options
from mlx_mesh._received import STATE_MAX_BYTES
from mlx_mesh_wire import Flag, InvalidRequestError, ProtocolError, pack_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_mesh._async_stream import AsyncStream
    from mlx_mesh._options import Call
    from mlx_mesh._stream import Stream

SEED_BITS = 53


class Sampling(TypedDict, total=False):
    """How much text, and how its tokens are chosen; whatever is left out is the worker's default.

    Without a temperature the likeliest token is taken each time. With one, ``seed`` decides: the same seed gives the
    same text, alone or beside others. A seed is drawn if none is given.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    logprobs: bool
    top_logprobs: int
    json_schema: Mapping[str, Any] | str


class TextChunk(NamedTuple):
    """A piece of text and the ids of its tokens; often one token, and sometimes no text yet.

    Attributes:
        text: what comes next.
        tokens: ids, in order.
        logprobs: with ``logprobs=True`` a map for each token: ``token`` (its id), ``logprob``, and ``top``, a list of
            ``[id, logprob]`` of the likeliest ones; otherwise None.
    """

    text: str
    tokens: list[int]
    logprobs: list[dict[str, Any]] | None = None


class GenerateResult(NamedTuple):
    """How a text ended.

    Attributes:
        finish_reason: ``stop`` (an end token or a stop string), ``length``, or ``cancelled`` if the reader left early.
        usage: tokens: ``prompt``, ``cached`` (of the prompt, not read again), ``completion``; and ``moved``, how often
            the text went on in another worker. Of a text that was left early, those that it had come to, and ``moved``.
        timings: milliseconds: ``queue_ms``, ``prefill_ms``, ``decode_ms``; empty if the reader left early.
        model: name of the model; empty if the reader left early.
    """

    finish_reason: str
    usage: dict[str, int]
    timings: dict[str, float]
    model: str


def generate_call(prompt: Any, sampling: Sampling, window: int, **keywords: Any) -> Call:
    """Return the request of a ``generate``; ``keywords`` are those of every call."""
    given = list(prompt) if isinstance(prompt, tuple) else prompt
    return _call("generate", {"prompt": given}, prompt_affinity(prompt), sampling, window=window, **keywords)


def chat_call(messages: Any, tools: Any, sampling: Sampling, window: int, **keywords: Any) -> Call:
    """Return the request of a ``chat``; ``keywords`` are those of every call."""
    given = {"messages": list(messages) if isinstance(messages, tuple) else messages}
    if tools is not None:
        given["tools"] = tools
    return _call("chat", given, chat_affinity(messages), sampling, window=window, **keywords)


def _call(op: str, asked: dict[str, Any], affinity: bytes, sampling: Sampling, *, window: int, **keywords: Any) -> Call:
    checked = options(**keywords, affinity=affinity)
    call = checked.call(op, pack_body({**asked, **_asked(sampling)}), check_window(window))
    return call._replace(flags=call.flags | Flag.RESUMABLE) if _resumable(call) else call


def _resumable(call: Call) -> bool:
    """Whether another worker may go on with it, and the request leaves room for a state in its message."""
    room = sum(map(len, call.frames)) + STATE_MAX_BYTES <= BODY_MAX_BYTES and len(call.frames) <= BODY_MAX_FRAMES - 1
    return room and not call.flags & Flag.AT_MOST_ONCE


def _asked(sampling: Sampling) -> dict[str, Any]:
    unknown = sorted(set(sampling) - set(Sampling.__annotations__))
    if unknown:
        text = f"{unknown[0]} is no keyword of generate; there are {', '.join(Sampling.__annotations__)}"
        raise InvalidRequestError(text, details={"field": unknown[0]})
    asked: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    for name in ("stop", "stop_tokens"):
        if isinstance(asked.get(name), tuple):
            asked[name] = list(asked[name])
    if isinstance(asked.get("logit_bias"), dict):
        asked["logit_bias"] = {str(token): bias for token, bias in asked["logit_bias"].items()}
    if asked.get("temperature") and "seed" not in asked:
        # Drawn here and not by the worker, so that the text goes on as it began if it has to be run again.
        asked["seed"] = secrets.randbits(SEED_BITS)
    return asked


_CHUNK = "text, tokens and logprobs"
_RESULT = {"finish_reason": str, "usage": dict, "timings": dict, "model": str}


def _refusal(what: str, parts: str) -> ProtocolError:
    return ProtocolError(f"the {what} is not made of {parts}; does an engine of another kind serve this op?")


class _Reading:
    """How far the reader of a text is."""

    def __init__(self) -> None:
        self._tokens = 0
        self._ended = False

    def chunk(self, value: Any) -> TextChunk:
        """Return a piece of text.

        Raises:
            ProtocolError: it is none; an engine of another kind serves the op.
        """
        if not isinstance(value, dict):
            raise _refusal("chunk", _CHUNK)
        text, tokens, logprobs = value.get("text") or "", value.get("tokens") or [], value.get("logprobs")
        if not isinstance(text, str) or not isinstance(tokens, list) or not isinstance(logprobs, list | None):
            raise _refusal("chunk", _CHUNK)
        self._tokens += len(tokens)
        return TextChunk(text, tokens, logprobs)

    def rest(self, value: Any) -> TextChunk | None:
        """Return what the result of a stream holds of the text, the first time, and if there is any."""
        if self._ended or not isinstance(value, dict):
            return None
        self._ended = True
        chunk = self.chunk(value)
        return chunk if chunk.text or chunk.tokens else None

    def result(self, stream: Stream | AsyncStream) -> GenerateResult | None:
        """Return how the text ended; None before.

        Raises:
            ProtocolError: the result does not say; an engine of another kind serves the op.
        """
        value = stream.result
        if value is not None:
            if not isinstance(value, dict) or not all(isinstance(value.get(n), kind) for n, kind in _RESULT.items()):
                raise _refusal("result", ", ".join(_RESULT))
            usage = {**value["usage"], "moved": stream.moved}
            return GenerateResult(value["finish_reason"], usage, value["timings"], value["model"])
        if not stream.left:
            return None
        return GenerateResult("cancelled", {"completion": self._tokens, "moved": stream.moved}, {}, "")


class Generation:
    """Text as it comes: iterate for :class:`TextChunk`, or call :meth:`text` for all of it.

    Leaving it early cancels the request. :attr:`result` says how it ended, once it has.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reading = _Reading()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TextChunk:
        try:
            return self._reading.chunk(next(self._stream))
        except StopIteration:
            rest = self._reading.rest(self._stream.result)
            if rest is None:
                raise
            return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def result(self) -> GenerateResult | None:
        """How it ended, once it has or the reader has left it; None before."""
        return self._reading.result(self._stream)

    def text(self) -> str:
        """Wait for the end and return all text that has not been read yet."""
        return "".join(chunk.text for chunk in self)

    def close(self) -> None:
        """Cancel the request if it has not ended."""
        self._stream.close()


class AsyncGeneration:
    """As :class:`Generation`, for asyncio."""

    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream
        self._reading = _Reading()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextChunk:
        try:
            return self._reading.chunk(await anext(self._stream))
        except StopAsyncIteration:
            rest = self._reading.rest(self._stream.result)
            if rest is None:
                raise
            return rest

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def result(self) -> GenerateResult | None:
        """How it ended, once it has or the reader has left it; None before."""
        return self._reading.result(self._stream)

    async def text(self) -> str:
        """Wait for the end and return all text that has not been read yet."""
        return "".join([chunk.text async for chunk in self])

    async def aclose(self) -> None:
        """Cancel the request if it has not ended."""
        await self._stream.aclose()
