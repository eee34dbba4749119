"""Which worker: one whose machine has memory, that has the model warm, is least loaded, and was used longest ago.

Exact, from a heap whose outdated entries are thrown away when they surface; choosing costs O(log workers).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from mlx_mesh_broker.core.entities import BULK
from mlx_mesh_broker.core.lifecycle import WorkerState

if TYPE_CHECKING:
    from mlx_mesh_broker.core.entities import Worker

_Entry = tuple[bool, bool, float, int, int, "Worker"]

AFFINITY_DIFFERENCE: Final = 2
AFFINITY_RATIO: Final = 1.5
"""A worker with a warm prefix cache is kept unless it holds over 2 jobs and half as many again more than the best one.

SGLang's router balances the same way, by a difference and a ratio together (its defaults suit larger fleets).
"""

REFUGE_EXTRA: Final = 8
"""Suspects that a worker takes beyond its capacity: they run before all else, so this many steps at most are added."""

_READY = WorkerState.READY


class Pool:
    """The workers that serve one op and model.

    Attributes:
        workers: all of them; :meth:`leave` takes one out.
        stale: those whose load, state or models changed since the last choice. They are looked at when somebody is to
            be chosen: most changes of a worker that serves several queues matter to none but one of these.
    """

    __slots__ = ("_heap", "model", "stale", "workers")

    def __init__(self, model: str) -> None:
        self.model = model
        self.workers: set[Worker] = set()
        self.stale: set[Worker] = set()
        self._heap: list[_Entry] = []

    def leave(self, worker: Worker) -> None:
        """Take out a worker, if it is here."""
        self.workers.discard(worker)
        self.stale.discard(worker)

    def note(self, worker: Worker) -> None:
        """Take account of a worker whose load, state or models changed; its ``version`` must be new."""
        held = len(worker.jobs)
        if worker.state is not _READY or held >= worker.capacity:
            return
        cold = self._cold(worker)
        # One that takes no bulk work goes last, so that the best one can be asked for what the others wait for.
        short = worker.lowest != BULK
        heappush(self._heap, (short, cold, held / worker.slots, worker.used, worker.version, worker))
        if len(self._heap) > 4 * len(self.workers) + 64:
            self._heap = [entry for entry in self._heap if self._current(entry)]
            heapify(self._heap)

    def best(self) -> Worker | None:
        """Return the worker to take the next job, or None when none has room."""
        if self.stale:
            for worker in self.stale:
                self.note(worker)
            self.stale.clear()
        heap = self._heap
        while heap:
            entry = heap[0]
            worker = entry[5]
            if entry[4] == worker.version and worker in self.workers:
                return worker
            heappop(heap)
        return None

    def refuge(self) -> Worker | None:
        """Return the least loaded ready worker for a suspect, which does not wait for a free place."""
        fit = (w for w in self.workers if w.state is _READY and len(w.jobs) < w.capacity + REFUGE_EXTRA)
        return min(fit, key=lambda w: (len(w.jobs) / w.slots, w.used), default=None)

    def roomy(self, lane: int) -> Worker | None:
        """Return the best of the ready workers with a free place for the lane; for when the best of all has none."""
        fit = (w for w in self.workers if w.state is _READY and w.room(lane) > 0)
        return min(fit, key=lambda w: (self._cold(w), len(w.jobs) / w.slots, w.used), default=None)

    def choose(self, preferred: Worker | None, lane: int) -> Worker | None:
        """Return the preferred worker if it has room and is not clearly busier than the best, else the best."""
        best = self.best()
        if preferred is None or best is None or preferred is best or preferred not in self.workers:
            return best
        held, least = len(preferred.jobs), len(best.jobs)
        if preferred.state is not _READY or preferred.room(lane) <= 0:
            return best
        busier = held - least > AFFINITY_DIFFERENCE and held / preferred.slots > AFFINITY_RATIO * least / best.slots
        return best if busier else preferred

    def _cold(self, worker: Worker) -> bool:
        return bool(self.model) and bool(worker.models) and self.model not in worker.warm

    def _current(self, entry: _Entry) -> bool:
        return entry[4] == entry[5].version and entry[5] in self.workers
