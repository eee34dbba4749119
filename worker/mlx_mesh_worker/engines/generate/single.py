"""Texts of a model that cannot be batched, or that a draft model speeds up: one at a time."""

from __future__ import annotations

import time
from math import isfinite
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.generate import StopSequences
from mlx_lm.models.cache import trim_prompt_cache

from mlx_mesh_wire import MeshError
from mlx_mesh_worker.engine import Failure
from mlx_mesh_worker.engines.generate.batch import Token
from mlx_mesh_worker.engines.generate.logprobs import read_details, token_details
from mlx_mesh_worker.engines.generate.sequential import SequentialGenerator
from mlx_mesh_worker.engines.generate.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_mesh_worker.engine import Output
    from mlx_mesh_worker.engines.generate.loader import LoadedModel
    from mlx_mesh_worker.engines.generate.row import Row
    from mlx_mesh_worker.engines.generate.settings import GenerateSettings
    from mlx_mesh_worker.job import Job


class SingleFile(Texts):
    """Texts that are generated one behind the other, the most urgent first."""

    def __init__(
        self,
        loaded: LoadedModel,
        settings: GenerateSettings,
        kv_limit: Callable[[], int],
        mark: Callable[[Iterable[Job]], None],
    ) -> None:
        super().__init__(loaded, settings, kv_limit, mark)
        self._generator = SequentialGenerator(loaded.model, draft=loaded.draft, draft_tokens=settings.draft_tokens)
        self._row: Row | None = None
        self._uid = -1
        self._read = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the caches of the text that runs."""
        return self._generator.prompt_cache_nbytes

    def counters(self) -> dict[str, int]:
        """Return what was counted, the guesses of the draft model too."""
        return {**self.counts, "drafted_tokens": self._generator.drafted, "accepted_tokens": self._generator.accepted}

    def warm(self) -> None:
        """Measure what a text takes, and generate two tokens."""
        super().warm()
        self._generator.insert([[0] * 32], [2])
        while self._generator.next() != ([], []):
            pass

    def cancel(self, job: Job) -> None:
        """Take a row out; what it has read is kept for a text that begins alike."""
        row = self._rows.pop(job, None)
        if row is not None and row is self._row:
            self._leave(row)
        elif row in self._waiting:
            self._waiting.remove(row)

    def step(self) -> list[Output]:
        """Read a piece of a prompt, or generate a token, with a draft model several."""
        now = time.monotonic()
        if self._row is None:
            ready = [row for row in self._waiting if not row.job.blocked]
            if not ready:
                return []
            row = min(ready, key=lambda row: (row.job.lane, row.job.accepted))
            if (end := self._ended_before(row, now)) is not None:
                return [end]
            self._waiting.remove(row)
            self._mark([row.job])
            self._begin(row, now)
        running = self._row
        assert running is not None  # noqa: S101  just chosen
        self._generator.prefill_step_size = self._pace.piece(running=False)
        self._mark([running.job])
        try:
            read, came = self._generator.next()
        except Exception as error:
            self._generator.close()
            self._row = None
            if not isinstance(error, MeshError):
                raise
            del self._rows[running.job]  # Its own processor: the model is sound.
            return [Failure(running.job, error)]
        for progress in read:
            self._count(progress.progress[0], time.monotonic() - now)
        outputs: list[Output] = []
        for response in came:
            outputs += self._take(running, response, time.monotonic())
            if self._row is None:
                break
        if self._row is not None and running.paused:
            self._set_aside(running)
        return outputs

    def _begin(self, row: Row, now: float) -> None:
        cache, row.fed = self.prefixes.fetch(row.context)
        if not row.began:
            row.cached = min(row.fed, len(row.prompt))
        row.began = row.began or now
        self._read = 0
        self.prefixes.shrink(self._kv_limit() - row.reserved)
        if row.sampler is not None:
            row.sampler.position = len(row.tokens)
        make: Any = StopSequences
        (self._uid,) = self._generator.insert(
            [row.context[row.fed :]],
            [row.remaining],
            caches=[cache],
            all_tokens=[row.context[: row.fed]],
            samplers=[row.sampler],
            logits_processors=[row.processors],
            stop_sequences=[make([[token] for token in (*self._loaded.end_tokens, *row.body.stop_tokens)])],
        )
        self._row = row

    def _count(self, read: int, seconds: float) -> None:
        """So many tokens of the prompt are read by now, the last ones in so much time."""
        tokens, self._read = read - self._read, read
        if tokens > 0:
            self.counts["read_tokens"] += tokens
            self._pace.read(tokens, seconds)

    def _take(self, row: Row, response: Any, now: float) -> list[Output]:
        row.first = row.first or now
        chosen, top = response.logprobs[response.token].item(), None
        if row.body.logprobs:
            chosen, top = read_details(
                *token_details(response.logprobs, mx.array(response.token)), row.body.top_logprobs
            )
        token = Token(row, response.token, sound=isfinite(chosen), logprob=chosen, top=top)
        reason, wrong = row.advance(token, self._loaded.end_tokens)
        if wrong is not None:
            del self._rows[row.job]
            self._generator.remove([self._uid])
            self._row = None
            return [Failure(row.job, wrong)]
        self.counts["generated_tokens"] += 1
        if reason is None:
            return row.chunk()
        if response.finish_reason is None:  # A string ended it, of which the generator knows nothing.
            self._leave(row)
        else:
            self._row = None
            self._keep(response.all_tokens, response.prompt_cache)
        return [self._end(row, reason, now)]

    def _set_aside(self, row: Row) -> None:
        """Let others go first until the reader has caught up."""
        self._leave(row)
        self._waiting.append(row)

    def _leave(self, row: Row) -> None:
        """Take the row that runs out of the generator; keep what it has read."""
        self._row = None
        for cache, tokens in self._generator.remove([self._uid], return_prompt_caches=True).values():
            # A round of guesses may have gone beyond the end.
            beyond = max(0, len(tokens) - len(row.context))
            trim_prompt_cache(cache, beyond)
            self._keep(tokens[: len(tokens) - beyond], cache)

    def _keep(self, tokens: list[int], cache: list[Any]) -> None:
        self.prefixes.store(tokens, cache)
        self.prefixes.shrink(max(0, self._kv_limit() - self.nbytes))
