"""A text that is being generated, from its request to its last token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import EngineError, MeshError
from mlx_mesh_worker.engine import Chunk, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh_worker.engine import Output
    from mlx_mesh_worker.engines.generate.batch import Token
    from mlx_mesh_worker.engines.generate.loader import Prompt
    from mlx_mesh_worker.engines.generate.request import GenerateBody
    from mlx_mesh_worker.engines.generate.sampling import Sampler
    from mlx_mesh_worker.engines.generate.text import TextStream
    from mlx_mesh_worker.job import Job

SOLO_TOKENS: Final = 4
"""A suspect that has come so far beyond where it began is cleared: what kills does so at the same place again."""

LOOKAHEAD: Final = 512
"""Tokens to come for which a row gets room at once; a longer text moves on to a longer batch."""

HELD_MAX: Final = 256
"""Tokens that are generated ahead of a reader that grants no credit; then the text is paused."""


class Row:
    """A job, what it asked for, and how far it is.

    Args:
        job: whose text this is.
        body: what was asked for.
        prompt: token ids, and how many of them are a system prompt.
        given: token ids that the reader has from an earlier attempt; the text goes on behind them.
        most: tokens that may be generated, those given included.
        sampler: chooses the tokens; None takes the likeliest.
        processors: change the logits first.
        text: turns tokens into text.

    Attributes:
        context: all tokens: prompt, then generated.
        tokens: generated so far, without the one that ends the text.
        cache: what the model has read, while the row is in no batch, and ``fed`` how many tokens of the context.
        cached: tokens of the context that came from the prefix cache.
        began: when its prompt began to be read, and ``first`` when its first token came, by the engine's clock.
        reserved: bytes that it may come to take.
        solo: it must have steps of its own, since it is suspected of killing workers.
    """

    def __init__(
        self,
        job: Job,
        body: GenerateBody,
        prompt: Prompt,
        *,
        given: list[int],
        most: int,
        sampler: Sampler | None,
        processors: list[Callable[..., Any]],
        text: TextStream,
    ) -> None:
        self.job = job
        self.body = body
        self.prompt = prompt.tokens
        self.system = prompt.system
        self.context = [*prompt.tokens, *given]
        self.sampler = sampler
        self.processors = processors
        self.text = text
        self.tokens = list(given)
        self._most = most
        self.cache: list[Any] | None = None
        self.fed = 0
        self.cached = 0
        self.began = 0.0
        self.first = 0.0
        self.reserved = 0
        self.solo = job.alone
        self._given = len(given)
        self._pieces: list[str] = []
        self._held: list[Token] = []
        for token in given:
            text.add(token)

    @property
    def rest(self) -> int:
        """Tokens that are to be read before it can join a batch."""
        return len(self.context) - 1 - self.fed

    @property
    def need(self) -> int:
        """Tokens for which it gets room in a batch."""
        return len(self.context) + min(self.remaining, LOOKAHEAD)

    @property
    def nbytes(self) -> int:
        """Bytes of its own cache."""
        return sum(int(layer.nbytes) for layer in self.cache or ())

    @property
    def remaining(self) -> int:
        """Tokens that may still be generated."""
        return self._most - len(self.tokens)

    @property
    def cleared(self) -> bool:
        """Whether it was suspected, and has shown since that it does no harm."""
        return self.solo and len(self.tokens) >= self._given + SOLO_TOKENS

    @property
    def paused(self) -> bool:
        """Whether its reader is so far behind that generating more is of no use."""
        ahead = self._held if self.job.resumable else self.job.backlog
        return self.job.blocked and len(ahead) >= HELD_MAX

    def unread(self) -> None:
        """Forget what the model has read of it, and what it has chosen beyond the text so far."""
        self.cache, self.fed = None, 0
        if self.sampler is not None:
            self.sampler.position = len(self.tokens)

    def advance(self, token: Token, end_tokens: frozenset[int]) -> tuple[str | None, MeshError | None]:
        """Take in a token; return why the text ends with it, None if it does not, and what is wrong with it, if any."""
        try:
            if token.error is not None:
                raise token.error
            if not token.sound:
                raise ValueError("the model gave no finite numbers")
            return self._advance(token, end_tokens), None
        except MeshError as error:
            return None, error
        except Exception as error:  # noqa: BLE001  its own sampler, processor or detokenizer: the others go on
            return None, EngineError(f"token {len(self.tokens)}: {error}"[:800])

    def _advance(self, token: Token, end_tokens: frozenset[int]) -> str | None:
        self.context.append(token.token)
        if token.token in end_tokens or token.token in self.body.stop_tokens:
            return "stop"
        self.tokens.append(token.token)
        self._held.append(token)
        self._pieces.append(self.text.add(token.token))
        if self.text.stopped:
            return "stop"
        return None if self.remaining > 0 else "length"

    def chunk(self) -> list[Output]:
        """Return what the reader has not been given yet as a chunk; nothing if it has no room, or wants all at once.

        A reader that does not keep what it is given gets a chunk for each token whatever room it has: should the text
        be generated anew, it has to be cut in the same way.
        """
        if not self.job.stream or not self._held or (self.job.blocked and self.job.resumable):
            return []
        return [Chunk(self.job, self._taken())]

    def result(self, reason: str, now: float, model: str) -> Output:
        """Return the end: why, how much, how long, and the text and tokens that were in no chunk."""
        self._pieces.append(self.text.finish())
        value: dict[str, Any] = {
            **self._taken(),
            "finish_reason": reason,
            "model": model,
            "usage": {"prompt": len(self.prompt), "cached": self.cached, "completion": len(self.tokens)},
            "timings": {
                "queue_ms": max(0.0, self.began - self.job.accepted) * 1e3,
                "prefill_ms": max(0.0, self.first - self.began) * 1e3,
                "decode_ms": (now - (self.first or now)) * 1e3,
            },
        }
        return Result(self.job, value)

    def _taken(self) -> dict[str, Any]:
        held, self._held = self._held, []
        pieces, self._pieces = self._pieces, []
        value: dict[str, Any] = {"text": "".join(pieces), "tokens": [token.token for token in held]}
        if self.body.logprobs:
            value["logprobs"] = [
                {"token": token.token, "logprob": token.logprob, "top": [list(each) for each in token.top or ()]}
                for token in held
            ]
        return value
