"""The ``generate`` engine: continuous batching by mlx-lm's BatchGenerator, one step at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import EngineError, InvalidRequestError
from mlx_mesh_wire.logs import log
from mlx_mesh_worker.blas import HINT, REFERENCE, load_blas
from mlx_mesh_worker.engine import Engine, Failure, Output
from mlx_mesh_worker.engines.generate.loader import LoadedModel, load_model
from mlx_mesh_worker.engines.generate.request import parse_body
from mlx_mesh_worker.engines.generate.row import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_worker.job import Job

ROWS_MAX: Final = 32
"""Texts that are generated together. On small models more add little throughput and slow each one down."""

PREFILL_ROWS: Final = 4
"""Prompts that are read together, and wait inside the generator at most; further ones wait here, in order of lanes."""

GAP_TARGET_S: Final = 0.05
"""Reading a prompt must not hold up running texts for longer than this between two of their tokens."""

PREFILL_MIN: Final = 16
PREFILL_MAX: Final = 2048
SMOOTHING: Final = 0.3
"""Weight of the newest step in the measured time per token of a prompt."""

WARM_PROMPT: Final = 32


class GenerateEngine(Engine):
    """Text from decoder models in the format of mlx-lm."""

    ops = ("generate", "chat")
    slots = ROWS_MAX

    def __init__(self, model: str = "") -> None:
        super().__init__(model)
        self._rows: dict[Job, Row] = {}
        self._by_uid: dict[int, Row] = {}
        self._waiting: dict[Job, Row] = {}
        self._prefill = PREFILL_MAX
        self._token_s = 0.0
        self._generator: Any = None

    def load(self) -> None:
        """Load the model, quantised or not, by mlx-lm."""
        blas = load_blas()
        if blas == REFERENCE:
            log("warning", "slow_blas", hint=HINT)
        self._loaded: LoadedModel = load_model(self.model)
        self.models = self._loaded.names
        # MLX is imported late, after the BLAS that it is to use.
        import mlx.core as mx

        from mlx_mesh_worker.engines.generate.prefix import PrefixCache
        from mlx_mesh_worker.engines.generate.sampling import Sampler, processors
        from mlx_mesh_worker.engines.generate.text import TextStream

        self._mx = mx
        self._prefixes = PrefixCache()
        self._make_sampler, self._processors, self._make_text = Sampler, processors, TextStream

    def warm(self) -> None:
        """Read a prompt and generate two tokens."""
        generator = self._start()
        generator.insert([[0] * WARM_PROMPT], max_tokens=[2])
        while generator.next() != ([], []):
            pass

    def admit(self, job: Job) -> None:
        """Check the body and tokenise the prompt."""
        loaded = self._loaded
        body = parse_body(job.op, job.value(), loaded.vocabulary)
        prompt = loaded.prompt_of(job.op, body)
        if len(prompt) >= loaded.context:
            name = "prompt" if job.op == "generate" else "messages"
            text = f"{name} has {len(prompt)} tokens, the model reads {loaded.context} with the answer"
            raise InvalidRequestError(text, details={"field": name, "tokens": len(prompt), "limit": loaded.context})
        stream = self._make_text(loaded.detokenizer(), body.stop)
        row = Row(job, body, prompt, self._make_sampler(body.sampling), stream)
        self._rows[job] = self._waiting[job] = row

    def cancel(self, job: Job) -> None:
        """Take the row out of the batch, in whatever stage it is."""
        row = self._rows.pop(job, None)
        self._waiting.pop(job, None)
        if row is not None and self._by_uid.pop(row.uid, None) is not None:
            self._generator.remove([row.uid])

    def step(self) -> Sequence[Output]:
        """Let waiting prompts in, then do one step: a token for each running text, a piece of the prompts."""
        generator = self._generator or self._start()
        self._let_in(generator)
        self.mark([row.job for row in self._by_uid.values()])
        before = time.monotonic()
        try:
            reading, came = generator.next()
        except Exception:
            self._generator = None  # What it holds is in an unknown state.
            self._by_uid.clear()
            raise
        now = time.monotonic()
        self._pace(generator, reading, len(came), now - before)
        outputs: list[Output] = []
        sound = self._sound(came)
        for response, finite in zip(came, sound, strict=True):
            outputs += self._take(self._by_uid[response.uid], response, finite, now)
        return outputs

    def trim(self, level: int) -> None:
        """Clear MLX's cache of freed buffers; level 2 also forgets all prefixes."""
        self._mx.clear_cache()
        if level > 1:
            self._prefixes.clear()

    def memory(self) -> dict[str, int]:
        """Return MLX's own counters and what key-value caches take, in bytes."""
        mx = self._mx
        generating = self._generator.prompt_cache_nbytes if self._generator is not None else 0
        return {
            "mlx_active": mx.get_active_memory(),
            "mlx_cache": mx.get_cache_memory(),
            "mlx_peak": mx.get_peak_memory(),
            "kv": int(generating),
            "prefix_cache": self._prefixes.nbytes,
        }

    def _start(self) -> Any:
        from mlx_lm.generate import BatchGenerator

        generator: Any = BatchGenerator(
            self._loaded.model,
            stop_tokens=[[token] for token in self._loaded.end_tokens],
            completion_batch_size=ROWS_MAX,
            prefill_batch_size=PREFILL_ROWS,
            prefill_step_size=self._prefill,
        )
        generator.close()  # Its constructor raises the wired limit of the whole process; that is not its business.
        self._generator = generator
        return generator

    def _let_in(self, generator: Any) -> None:
        """Give the generator the next prompts, higher lanes first, as many as it can begin with."""
        reading = sum(not row.first for row in self._by_uid.values())
        room = min(PREFILL_ROWS - reading, ROWS_MAX - len(self._by_uid))
        if room <= 0 or not self._waiting:
            return
        for row in sorted(self._waiting.values(), key=lambda row: row.job.lane)[:room]:
            self._insert(generator, row)

    def _insert(self, generator: Any, row: Row) -> None:
        del self._waiting[row.job]
        cache, row.cached = self._prefixes.fetch(row.prompt)
        stops = self._loaded.stop_sequences(row.body.stop_tokens)
        (row.uid,) = generator.insert(
            [row.prompt[row.cached :]],
            max_tokens=[min(row.body.max_tokens, self._loaded.context - len(row.prompt))],
            caches=[cache],
            all_tokens=[row.prompt[: row.cached]],
            samplers=[row.sampler if row.body.sampling.temperature else None],
            logits_processors=[self._processors(row.body.sampling)],
            stop_sequences=[stops],
        )
        row.began = time.monotonic()
        self._by_uid[row.uid] = row

    def _pace(self, generator: Any, reading: list[Any], decoding: int, seconds: float) -> None:
        """Size the next pieces of prompts so that running texts keep their pace."""
        if not reading or not self._by_uid:
            return
        tokens = min(self._prefill, max(len(row.prompt) - row.cached for row in self._by_uid.values())) * len(reading)
        token_s = seconds / max(1, tokens)
        self._token_s = token_s if not self._token_s else self._token_s + SMOOTHING * (token_s - self._token_s)
        wanted = int(GAP_TARGET_S / self._token_s / len(reading)) if decoding else PREFILL_MAX
        self._prefill = max(PREFILL_MIN, min(PREFILL_MAX, wanted))
        generator.prefill_step_size = self._prefill
        generator._prompt_batch.prefill_step_size = self._prefill  # noqa: SLF001  it is handed on only at its making

    def _sound(self, came: list[Any]) -> list[bool]:
        """Return for each token whether the model gave numbers for it."""
        if not came:
            return []
        mx = self._mx
        found: list[bool] = mx.isfinite(mx.stack([each.logprobs[each.token] for each in came])).tolist()
        return found

    def _take(self, row: Row, response: Any, finite: bool, now: float) -> list[Output]:
        row.first = row.first or now
        if not finite or row.sampler.error is not None:
            why = row.sampler.error or "the model gave no finite numbers"
            return [self._fail(row, f"token {len(row.tokens)}: {why}")]
        ends = response.finish_reason == "stop"
        text, tokens = row.advance(response.token, ends=ends)
        reason = "stop" if row.text.stopped else response.finish_reason
        if reason is None:
            return row.chunk(text, tokens)
        text += row.text.finish()
        self._leave(row, response)
        return [*row.chunk(text, tokens), row.result(reason, now, self.models[0])]

    def _fail(self, row: Row, why: str) -> Output:
        self.cancel(row.job)
        return Failure(row.job, EngineError(why))

    def _leave(self, row: Row, response: Any) -> None:
        """Take a row that ended out; what it has read is kept for prompts that begin alike."""
        del self._rows[row.job], self._by_uid[row.uid]
        if response.finish_reason is not None:
            self._prefixes.store(response.all_tokens, response.prompt_cache)
            return
        cache, tokens = self._generator.remove([row.uid], return_prompt_caches=True)[row.uid]
        self._prefixes.store(tokens, cache)
