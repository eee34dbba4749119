"""The one interface between the runner and everything that computes.

All methods are called on the compute thread, one at a time, in this order: ``load``, ``warm``, then any mix of
``admit``, ``cancel``, ``trim``, ``idle`` and ``step``. MLX streams belong to a thread: no other one may touch MLX.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mlx_mesh_wire import MeshError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from mlx_mesh_worker.job import Job


class Chunk(NamedTuple):
    """A piece of a stream: ``value`` is any body value."""

    job: Job
    value: Any


class Result(NamedTuple):
    """The end of a job: ``value`` is any body value, tensors included."""

    job: Job
    value: Any


class RawResult(NamedTuple):
    """The end of a job whose result is encoded already: ``frames`` are the body and its buffers."""

    job: Job
    frames: Sequence[bytes | memoryview]


class Failure(NamedTuple):
    """The end of a job that could not be computed, although the engine is sound."""

    job: Job
    error: MeshError


Output = Chunk | Result | RawResult | Failure


class EngineBrokenError(Exception):
    """Raised by ``step`` when the engine cannot go on; the worker exits non-zero and is started again."""


class EngineLoadError(Exception):
    """Raised by ``load`` or ``warm``: the message says which file or field is at fault and what is expected."""


class Engine(ABC):
    """Serves ops on models.

    A subclass sets ``ops`` and may set ``pure_ops`` (those whose result depends on the body alone), ``models`` (the
    first is the default; empty serves any name), ``slots`` (how many jobs it can make use of at once) and
    ``bulk_slots`` (how many of them may be of the bulk lane; 0 leaves a few places free).
    """

    ops: Sequence[str] = ()
    pure_ops: Sequence[str] = ()
    models: Sequence[str] = ()
    slots: int = 8
    bulk_slots: int = 0
    resumes: ClassVar[bool] = False
    """True when a stream can go on from ``job.state``: its chunks then begin with the one behind those that the state
    covers, and need not be cut as they were before. Otherwise a stream begins anew, and has to give the same chunks.
    """
    inline: ClassVar[bool] = False
    """True when a step takes microseconds: the runner then computes on the I/O thread and saves two thread switches."""

    settings: Any = None
    """Of the engines that come with mlx-mesh: their section of ``mesh.toml``, set before ``load``."""

    mark: Callable[[Iterable[Job]], None]
    """Set by the runner. ``step`` calls it with the jobs it is about to compute, so that a crash is blamed on these."""

    loading: Callable[[], AbstractContextManager[None]] = nullcontext
    """Set by the runner. A step, or an admission, that loads something large does so within ``with self.loading():``.
    It may then take ``load_max_s`` instead of ``stuck_s``, and the broker does not take the worker for stalled.
    """

    def __init__(self, model: str = "") -> None:
        """Remember what ``--model`` said; do no work here."""
        self.model = model

    def load(self) -> None:  # noqa: B027  nothing to load is a fine engine
        """Bring the model into memory. Raises EngineLoadError."""

    def warm(self) -> None:  # noqa: B027  likewise
        """Compute once, so that the first job is as fast as the next."""

    @abstractmethod
    def admit(self, job: Job) -> None:
        """Take a job. Raises MeshError to refuse it (then it was not admitted)."""

    @abstractmethod
    def step(self) -> Sequence[Output]:
        """Do ONE bounded unit of compute (a batch, a prefill chunk, a decode step) and return what came of it."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Forget an admitted job at once; nothing more is to be returned for it."""

    def trim(self, level: int) -> None:  # noqa: B027  likewise
        """Give memory back: 1 clears caches, 2 also shrinks batches; 0: it is short no more, undo what 2 shrank.

        Called between steps, without jobs too, and with the same level again while memory stays short. An exception
        is logged and harms nobody.
        """

    def idle(self, now: float) -> float | None:
        """Do what is to be done while no job is there; return in how many seconds to be asked again, None if never."""
        return None

    def memory(self) -> dict[str, int]:
        """Return figures in bytes for BEAT, such as ``mlx_active``, ``mlx_cache`` and ``mlx_peak``."""
        return {}

    def counters(self) -> dict[str, int]:
        """Return what the engine has counted since it was loaded, for BEAT and the metrics; no count ever falls."""
        return {}

    def about(self) -> dict[str, str]:
        """Return what else an operator should know of it, shown beside the versions; asked once it is warm."""
        return {}

    def warm_models(self) -> Sequence[str]:
        """Return the models that are in memory now."""
        return self.models


class BatchEngine(Engine):
    """The simple case: subclass, ``load``, ``run(batch)``.

    ::

        class Upper(BatchEngine):
            ops = ("upper",)

            def run(self, batch):
                return [value.upper() for value in batch]
    """

    batch_max: int = 32

    def __init__(self, model: str = "") -> None:
        super().__init__(model)
        self._waiting: dict[Job, Any] = {}

    @abstractmethod
    def run(self, batch: list[Any]) -> Sequence[Any]:
        """Return one result for each body value of the batch, in order. A result may be a MeshError."""

    def admit(self, job: Job) -> None:
        """Queue the job; its body is decoded here, so that a bad one fails alone."""
        self._waiting[job] = job.value()

    def cancel(self, job: Job) -> None:
        """Drop the job if it still waits."""
        self._waiting.pop(job, None)

    def step(self) -> Sequence[Output]:
        """Run the oldest waiting jobs as one batch; a job that must be alone goes first and alone."""
        batch = self._take()
        self.mark(batch)
        results = self.run(list(batch.values()))
        if len(results) != len(batch):
            raise EngineBrokenError(f"run() returned {len(results)} results for a batch of {len(batch)}")
        return [self._output(job, result) for job, result in zip(batch, results, strict=True)]

    def _take(self) -> dict[Job, Any]:
        alone = next((job for job in self._waiting if job.alone), None)
        if alone is not None:
            return {alone: self._waiting.pop(alone)}
        taken = list(self._waiting)[: self.batch_max]
        return {job: self._waiting.pop(job) for job in taken}

    @staticmethod
    def _output(job: Job, result: Any) -> Output:
        return Failure(job, result) if isinstance(result, MeshError) else Result(job, result)
