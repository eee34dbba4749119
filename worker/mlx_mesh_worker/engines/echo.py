"""Returns what it is given; for tests, and to measure everything but computing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_worker.engine import Chunk, Engine, Output, RawResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_worker.job import Job


class EchoEngine(Engine):
    """The body comes back unread. A stream of a list gets each item as a chunk, then the whole list."""

    ops = ("echo",)
    slots = 32
    inline = True

    def __init__(self, model: str = "") -> None:
        super().__init__(model)
        self._waiting: dict[Job, None] = {}
        self._streams: dict[Job, list[object]] = {}

    def admit(self, job: Job) -> None:
        """Take the job."""
        if job.stream:
            value = job.value()
            self._streams[job] = list(reversed(value)) if isinstance(value, list) else [value]
        else:
            self._waiting[job] = None

    def cancel(self, job: Job) -> None:
        """Forget the job."""
        self._waiting.pop(job, None)
        self._streams.pop(job, None)

    def step(self) -> Sequence[Output]:
        """Answer all that wait, and send one item of each stream that has a reader."""
        jobs = list(self._waiting)
        self._waiting.clear()
        self.mark([*jobs, *self._streams] if self._streams else jobs)
        outputs: list[Output] = [RawResult(job, job.frames) for job in jobs]
        for job in [each for each in self._streams if not each.blocked]:
            items = self._streams[job]
            if items:
                outputs.append(Chunk(job, items.pop()))
            else:
                del self._streams[job]
                outputs.append(RawResult(job, job.frames))
        return outputs
