"""The ``embed`` engine: texts in, vectors out, one bounded batch a step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import EngineError, InvalidRequestError, Lane, Tensor
from mlx_mesh_wire.logs import log
from mlx_mesh_worker.blas import HINT, REFERENCE, load_blas
from mlx_mesh_worker.engine import Engine, EngineLoadError, Failure, Output, Result
from mlx_mesh_worker.engines.embed.batcher import Batcher, Piece, Work, padded
from mlx_mesh_worker.engines.embed.config import read_config
from mlx_mesh_worker.engines.embed.request import parse_body
from mlx_mesh_worker.engines.embed.tokens import TextTokenizer
from mlx_mesh_worker.engines.mlx_cache import MlxCache
from mlx_mesh_worker.engines.mlx_memory import figures
from mlx_mesh_worker.model_files import find_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import mlx.core

    from mlx_mesh_worker.job import Job

STEP_TARGET_S: Final = 0.04
"""A step should take no longer, since a new interactive text waits for the step under way."""

BULK_STEP_TARGET_S: Final = 0.12
BULK_AFTER_S: Final = 2.0
"""The same while nothing but bulk work has come for so long: larger batches read the weights less often."""

BUDGET_FIRST: Final = 512
BUDGET_MIN: Final = 64
BUDGET_MAX: Final = 16_384
"""Padded tokens of a batch: what it starts with, and the bounds of what it may adapt to."""

READ_MAX_CHARS: Final = 32_768
"""Characters tokenised in a step, which take 10 ms of a CPU core: several times what 40 ms of such a core compute."""

READ_AT_ONCE_MAX_CHARS: Final = 4096
"""Characters tokenised of a new job, 1 ms: small jobs are read whole and can share the next batch, and jobs for all
slots that come at once take little more than one step's reading."""

SMOOTHING: Final = 0.2
"""Weight of the newest step in the measured time per token."""


class EmbedEngine(Engine):
    """Encoders of the BERT family: MiniLM, BGE, E5, GTE and others in sentence-transformers' folder format."""

    ops = ("embed",)
    pure_ops = ("embed",)
    slots = 16

    def __init__(self, model: str = "") -> None:
        super().__init__(model)
        self._batcher = Batcher()
        self._budget = BUDGET_FIRST
        self._token_s = 0.0
        self._hurried = 0.0
        self._shrunk = 1

    def load(self) -> None:
        """Find the model, read its configuration, bring its weights into memory."""
        name, folder = find_model(self.model)
        self.config = read_config(folder)
        self._name = name
        short = name.rpartition("/")[2]
        self.models = (name,) if short == name else (name, short)
        blas = load_blas()
        if blas == REFERENCE:
            log("warning", "slow_blas", hint=HINT)
        else:
            log("debug", "blas", library=blas)
        self._tokenizer = TextTokenizer(folder, self.config)
        # MLX is imported late, after the BLAS that it is to use.
        import mlx.core as mx

        from mlx_mesh_worker.engines.embed.encoder import Encoder
        from mlx_mesh_worker.engines.embed.weights import load_weights

        self._mx, self._cache = mx, MlxCache(mx)
        self._encoder = Encoder(self.config, load_weights(folder, self.config))
        if self._tokenizer.ids_end > self._encoder.vocabulary:
            raise EngineLoadError(
                f"{folder / 'tokenizer.json'} has token ids up to {self._tokenizer.ids_end - 1}, "
                f"the weights have word embeddings for {self._encoder.vocabulary}"
            )

    def warm(self) -> None:
        """Compute a small batch, which also shows that the model gives finite numbers."""
        (row,) = self._tokenizer(["warm"])
        vectors = self._encoder([row.ids] * 2)
        if not bool(self._mx.isfinite(vectors).all()):
            raise EngineLoadError(f"model {self._name} gives vectors that are not finite; its weights are broken")

    def admit(self, job: Job) -> None:
        """Check all texts and tokenise the first of them; the others are read in the job's turns."""
        body = parse_body(job.value(lenient_text=True))
        work = Work(job, body.texts, self.config.normalize if body.normalize is None else body.normalize)
        work.read(self._tokenizer, READ_AT_ONCE_MAX_CHARS)
        self._batcher.add(work)
        if job.lane != Lane.BULK:
            self._hurried = time.perf_counter()

    def cancel(self, job: Job) -> None:
        """Drop the texts of a job."""
        self._batcher.remove(job)

    def step(self) -> Sequence[Output]:
        """Compute one batch and return the jobs that it completed; the job whose turn it is reads on before."""
        first = self._batcher.turn()
        if first.unread:
            self.mark((first.job,))
            try:
                first.read(self._tokenizer, READ_MAX_CHARS)
            except InvalidRequestError as error:
                self._batcher.remove(first.job)
                return [Failure(first.job, error)]
        began = time.perf_counter()
        batch = self._batcher.batch(first, self._allowed(began))
        self.mark({piece.work.job: None for piece in batch})
        rows, finite = self._compute(batch)
        self._adapt(time.perf_counter() - began, len(batch) * padded(max(len(piece.ids) for piece in batch)))
        return self._sort_out(batch, rows, finite)

    def trim(self, level: int) -> None:
        """Clear MLX's cache of freed buffers; level 2 also halves the batches, each time, until level 0."""
        self._cache.trim(level)
        if level > 1:
            self._shrunk = min(self._shrunk * 2, BUDGET_MAX // BUDGET_MIN)
        elif not level:
            self._shrunk = 1

    def memory(self) -> dict[str, int]:
        """Return MLX's own counters, in bytes."""
        return figures(self._mx)

    def _compute(self, batch: list[Piece]) -> tuple[dict[bool, memoryview], list[bool]]:
        """Return the vectors as bytes, raw and normalised as needed, and which of them are finite."""
        mx = self._mx
        raw = self._encoder([piece.ids for piece in batch])
        wanted = {piece.work.normalize for piece in batch}
        vectors: dict[bool, mlx.core.array] = {False: raw} if False in wanted else {}
        if True in wanted:
            # As torch.nn.functional.normalize, which sentence-transformers uses.
            vectors[True] = raw / mx.maximum(mx.sqrt((raw * raw).sum(axis=-1, keepdims=True)), 1e-12)
        finite = mx.isfinite(raw).all(axis=-1)
        mx.eval(finite, *vectors.values())
        return {
            key: memoryview(value).cast("B")  # type: ignore[arg-type]
            for key, value in vectors.items()
        }, finite.tolist()

    def _sort_out(self, batch: list[Piece], rows: dict[bool, memoryview], finite: list[bool]) -> list[Output]:
        outputs: list[Output] = []
        size = 4 * self._encoder.dimension
        for position, piece in enumerate(batch):
            work = piece.work
            if not finite[position]:
                if self._batcher.remove(work.job) is not None:
                    where = {"field": "texts", "index": piece.position}
                    text = f"the vector of texts[{piece.position}] is not finite"
                    outputs.append(Failure(work.job, EngineError(text, details=where)))
                continue
            work.vectors[piece.position] = bytes(rows[work.normalize][position * size : (position + 1) * size])
            work.missing -= 1
            if not work.missing and self._batcher.remove(work.job) is not None:
                outputs.append(Result(work.job, self._result(work)))
        return outputs

    def _result(self, work: Work) -> dict[str, Any]:
        shape = (len(work.vectors), self._encoder.dimension)
        return {
            "vectors": Tensor(b"".join(work.vectors), "float32", shape),
            "tokens": work.tokens,
            "truncated": work.truncated,
            "model": self._name,
        }

    def _allowed(self, now: float) -> int:
        """Return the padded tokens of the next batch."""
        calm = now - self._hurried > BULK_AFTER_S
        budget = self._budget * BULK_STEP_TARGET_S / STEP_TARGET_S if calm else self._budget
        return max(BUDGET_MIN, int(budget) // self._shrunk)

    def _adapt(self, seconds: float, tokens: int) -> None:
        """Size the next batch so that it takes about the target time."""
        token_s = seconds / tokens
        self._token_s = token_s if not self._token_s else self._token_s + SMOOTHING * (token_s - self._token_s)
        self._budget = max(BUDGET_MIN, min(BUDGET_MAX, int(STEP_TARGET_S / self._token_s)))
