"""The ``generate`` engine: text from one or several decoder models, one step at a time."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import EngineError, InvalidRequestError, MeshError, MeshOutOfMemoryError, UnknownModelError
from mlx_mesh_wire.logs import log
from mlx_mesh_worker.blas import HINT, REFERENCE, load_blas
from mlx_mesh_worker.engine import Engine, EngineLoadError, Failure, Output
from mlx_mesh_worker.engines.generate.loader import find
from mlx_mesh_worker.engines.generate.request import parse_body
from mlx_mesh_worker.engines.generate.row import Row
from mlx_mesh_worker.engines.generate.settings import GenerateSettings
from mlx_mesh_worker.engines.mlx_cache import MlxCache
from mlx_mesh_worker.engines.mlx_memory import figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlx_mesh_worker.engines.generate.models import Models, Served
    from mlx_mesh_worker.job import Job

PREEMPTING = 2
"""Beside its rows an engine takes a further half as many jobs: those that may take the places of bulk texts."""

LOOK_S = 1.0
"""How often a busy worker looks whether there are models to let go of."""


class GenerateEngine(Engine):
    """Text from decoder models in the format of mlx-lm.

    Args:
        model: one or several models, with commas between them; the first is the default.
    """

    ops = ("generate", "chat")
    resumes = True

    def __init__(self, model: str = "") -> None:
        super().__init__(model)
        self.settings = GenerateSettings()
        self._cold: list[Job] = []
        self._marked: list[Job] = []
        self._turn = 0
        self._look_again = 0.0
        self._level = 0
        self._models: Models

    def load(self) -> None:
        """Find all models, load the first, quantised or not, by mlx-lm.

        Raises:
            EngineLoadError: naming the model, file or setting at fault.
        """
        blas = load_blas()
        if blas == REFERENCE:
            log("warning", "slow_blas", hint=HINT)
        allowed = [find(name.strip()) for name in (self.settings.model or self.model).split(",")]
        self.models = tuple(name for found in allowed for name in found.names)
        if len(set(self.models)) < len(self.models):
            raise EngineLoadError(f"--model names a model twice: {', '.join(self.models)}")
        # MLX is imported late, after the BLAS that it is to use.
        import mlx.core as mx

        from mlx_mesh_worker.engines.generate.budget import apply_limits
        from mlx_mesh_worker.engines.generate.models import Models
        from mlx_mesh_worker.engines.generate.sampling import Sampler, processors
        from mlx_mesh_worker.engines.generate.text import TextStream

        self._mx, self._cache = mx, MlxCache(mx)
        self._make_sampler, self._processors, self._make_text = Sampler, processors, TextStream
        apply_limits(self.settings)
        self._models = Models(allowed, self.settings, self._marking)
        first = self._models.load()
        rows = 1 if first.loaded.alone and len(allowed) == 1 else self.settings.rows
        self.slots = rows + rows // PREEMPTING
        self.bulk_slots = rows

    def about(self) -> dict[str, str]:
        """Return how texts are batched, for each model in memory."""
        found = {}
        for served in self._models:
            alone = served.loaded.alone
            found[f"batching {served.loaded.names[0]}"] = f"one at a time: {alone}" if alone else "continuous"
        return found

    def admit(self, job: Job) -> None:
        """Check the body and tokenise the prompt; if the model is not in memory, both are done when it is."""
        if job.model and job.model not in self.models:
            raise UnknownModelError(f"{job.model} is no model of this worker; there are {', '.join(self.models)}"[:800])
        served = self._models.get(job.model)
        if served is None:
            self._cold.append(job)
        else:
            self._admit(job, served)

    def cancel(self, job: Job) -> None:
        """Take the text out, wherever it is."""
        if job in self._cold:
            self._cold.remove(job)
        for served in self._models:
            served.texts.cancel(job)

    def step(self) -> Sequence[Output]:
        """Load a model that is asked for, or do a step of one that has texts, each in turn."""
        self._marked = []
        now = time.monotonic()
        if now >= self._look_again:  # A worker that is never idle lets go of models too.
            self._look_again = now + max(LOOK_S, self._models.let_go(now) or 0.0)
        if self._cold:
            return self._warm_up()
        busy = [served for served in self._models if len(served.texts)]
        if not busy:
            return []
        self._turn += 1
        served = busy[self._turn % len(busy)]
        served.used = now
        try:
            return served.texts.step()
        except RuntimeError as error:
            if not self._marked or not _is_memory(error):
                raise
            return self._out_of_memory(served, error)

    def trim(self, level: int) -> None:
        """Clear MLX's cache of freed buffers and read in smaller pieces, until level 0.

        Level 2 also keeps no prefixes, and begins with half as many texts.
        """
        self._level = 0 if not level else max(level, self._level)
        for served in self._models:
            served.texts.trim(level)
        self._cache.trim(level)

    def idle(self, now: float) -> float | None:
        """Let go of models that nobody used for long."""
        return self._models.let_go(now)

    def memory(self) -> dict[str, int]:
        """Return MLX's own counters and what key-value caches take, in bytes."""
        return {
            **figures(self._mx),
            "kv": sum(served.texts.nbytes for served in self._models),
            "prefix_cache": sum(served.texts.prefixes.nbytes for served in self._models),
        }

    def counters(self) -> dict[str, int]:
        """Return hits and saved tokens of the prefix caches, preemptions, tokens read and generated."""
        return self._models.counters()

    def warm_models(self) -> Sequence[str]:
        """Return the names of the models in memory."""
        return self._models.warm

    def _admit(self, job: Job, served: Served) -> None:
        loaded = served.loaded
        body = parse_body(job.op, job.value(), loaded.vocabulary)
        prompt = loaded.prompt_of(job.op, body)
        given = _given(job, loaded.vocabulary)
        most = min(body.max_tokens, loaded.context - len(prompt.tokens))
        changes: list[Any] = self._processors(body.sampling)
        if body.json_schema is not None:
            changes.append(loaded.schemas.processor(loaded.schemas.compile(body.json_schema), len(prompt.tokens)))
        sampler = self._make_sampler(body.sampling, len(given)) if body.sampling.temperature else None
        text = self._make_text(loaded.detokenizer(), body.stop)
        row = Row(job, body, prompt, given=given, most=most, sampler=sampler, processors=changes, text=text)
        served.texts.admit(row)

    def _marking(self, jobs: Iterable[Job]) -> None:
        self._marked = list(jobs)
        self.mark(self._marked)

    def _out_of_memory(self, served: Served, error: RuntimeError) -> list[Output]:
        """Fail the texts of a step for which MLX found no memory, and give back what can be given back."""
        for job in self._marked:
            served.texts.cancel(job)
        served.texts.prefixes.clear()
        self._mx.clear_cache()
        figures = {name: count for name, count in self.memory().items() if name.startswith("mlx")}
        text = f"MLX found no memory for this step: {error}"[:800]
        return [Failure(job, MeshOutOfMemoryError(text, details=figures)) for job in self._marked]

    def _warm_up(self) -> list[Output]:
        """Load the model that the first of the waiting jobs asks for; take in all that wait for it."""
        name = self._cold[0].model
        jobs = [job for job in self._cold if job.model == name]
        self._marking(jobs)
        served = self._models.get(name)
        failure: MeshError | None = None
        if served is None:
            try:
                with self.loading():
                    served = self._models.load(name)
                if self._level:
                    served.texts.trim(self._level)
            except MeshError as error:
                failure = error
            except EngineLoadError as error:
                failure = EngineError(str(error)[:800])
            except RuntimeError as error:
                if not _is_memory(error):
                    raise
                failure = MeshOutOfMemoryError(f"loading {name} found too little memory: {error}"[:800])
        outputs: list[Output] = []
        for job in jobs:
            self._cold.remove(job)
            if served is None:
                assert failure is not None  # noqa: S101  it was not loaded
                outputs.append(Failure(job, failure))
                continue
            try:
                self._admit(job, served)
            except MeshError as error:
                outputs.append(Failure(job, error))
            except Exception as error:  # noqa: BLE001  the others that wait are not to suffer
                outputs.append(Failure(job, EngineError(f"{type(error).__name__}: {error}"[:800])))
        return outputs


def _is_memory(error: RuntimeError) -> bool:
    """Return whether MLX ran out of memory; it has no type for this."""
    return any(word in str(error).lower() for word in ("memory", "malloc", "allocate"))


def _given(job: Job, vocabulary: int) -> list[int]:
    """Return the tokens that the reader of a stream has from an earlier attempt."""
    state = job.state
    if state is None:
        return []
    if len(state) % 4:
        raise InvalidRequestError(
            f"the state has {len(state)} bytes; allowed: token ids of 4 bytes each", details={"field": "state"}
        )
    tokens = list(struct.unpack(f"<{len(state) // 4}I", state))
    if any(token >= vocabulary for token in tokens):
        text = f"the state has token {max(tokens)}; allowed: token ids from 0 to {vocabulary - 1}"
        raise InvalidRequestError(text, details={"field": "state"})
    return tokens
