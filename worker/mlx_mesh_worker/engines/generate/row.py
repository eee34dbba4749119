"""A request that is being generated: one row of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_worker.engine import Chunk, Result

if TYPE_CHECKING:
    from mlx_mesh_worker.engine import Output
    from mlx_mesh_worker.engines.generate.request import GenerateBody
    from mlx_mesh_worker.engines.generate.sampling import Sampler
    from mlx_mesh_worker.engines.generate.text import TextStream
    from mlx_mesh_worker.job import Job


class Row:
    """A job, what it asked for, and how far it is.

    Attributes:
        prompt: token ids.
        cached: tokens of the prompt that came from the prefix cache.
        uid: its number in the generator; -1 while it waits.
        tokens: generated so far, without the one that ends the text.
        began: when its prompt began to be read, and ``first`` when its first token came, by the engine's clock.
    """

    def __init__(self, job: Job, body: GenerateBody, prompt: list[int], sampler: Sampler, text: TextStream) -> None:
        self.job = job
        self.body = body
        self.prompt = prompt
        self.sampler = sampler
        self.text = text
        self.cached = 0
        self.uid = -1
        self.tokens: list[int] = []
        self.pieces: list[str] = []
        self.began = 0.0
        self.first = 0.0

    def advance(self, token: int, *, ends: bool) -> tuple[str, list[int]]:
        """Take in a token; return the text and the tokens to give out for it.

        Each token gives exactly one chunk, even one that shows no text yet: a stream that is run again has the same
        chunks under the same numbers.
        """
        shown = [] if ends else [token]
        text = "" if ends else self.text.add(token)
        self.tokens += shown
        return text, shown

    def chunk(self, text: str, tokens: list[int]) -> list[Output]:
        """Return the chunk of a stream; a request without one collects its text instead."""
        if self.job.stream:
            return [Chunk(self.job, {"text": text, "tokens": tokens})]
        self.pieces.append(text)
        return []

    def result(self, reason: str, now: float, model: str) -> Output:
        """Return the end: why, how much, how long."""
        value: dict[str, Any] = {
            "finish_reason": reason,
            "model": model,
            "usage": {"prompt": len(self.prompt), "cached": self.cached, "completion": len(self.tokens)},
            "timings": {
                "queue_ms": (self.began - self.job.accepted) * 1e3,
                "prefill_ms": (self.first - self.began) * 1e3,
                "decode_ms": (now - self.first) * 1e3,
            },
        }
        if not self.job.stream:
            value |= {"text": "".join(self.pieces), "tokens": self.tokens}
        return Result(self.job, value)
