"""A machine of which every figure is set by hand, and looked at when a test says so: for bounds and times."""

from __future__ import annotations

from typing import Any

from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_worker.guard.actions import Action, Say
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.samples import ProcessSample, Sample, Signals, WorkerSample
from mlx_mesh_worker.guard.settings import GuardSettings
from mlx_mesh_worker.guard.state import State

MIB = 1 << 20
LIMIT = 2000 * MIB
SERVES = frozenset({("op", "model")})


def worker(number: int, footprint: float = 400 * MIB, **how: Any) -> WorkerSample:
    """Return a ready worker that took 200 MiB at first."""
    memory = how.pop("memory", {"rss_ready": 200 * MIB})
    fields = {"state": "ready", "serves": SERVES, "held": 0, "served": 0, "uptime_s": 1000.0, "remote": False}
    fields |= {"drained_by": "", "footprint": int(footprint), "memory": memory} | how
    return WorkerSample(f"w-{number}", fields.pop("pid", 100 + number), **fields)


def process(number: int, **how: Any) -> ProcessSample:
    """Return its process, which runs."""
    fields = {"group": "workers", "state": "RUNNING", "running_s": 1000.0, "worker": True} | how
    return ProcessSample(f"w-{number}", pid=fields.pop("pid", 100 + number), **fields)


class Looks:
    """A guard, what it is about to see, and what it did.

    Its clock begins at nought, as a machine's may.
    """

    def __init__(self, *workers: WorkerSample, **settings: Any) -> None:
        self.state = State(GuardSettings(**settings))
        self.workers: list[WorkerSample] = list(workers)
        self.processes = [process(int(each.name[2:]), pid=each.pid) for each in workers]
        self.used = 0.5
        self.limit = LIMIT
        self.signals = Signals()
        self.broker_up_s = 1000.0
        self.seen: list[Action] = []

    def sample(self) -> Sample:
        """Return what it would see now."""
        limits = [Limit("ram", int(self.used * self.limit), self.limit)] if self.limit else []
        return Sample(limits, self.signals, self.workers, self.processes, self.broker_up_s)

    def at(self, now: float) -> list[Action]:
        """Look, and return what is done, log lines left out."""
        self.seen = decide(self.sample(), self.state, now)
        return [action for action in self.seen if not isinstance(action, Say)]

    def said(self) -> list[str]:
        """Return the events of the last look."""
        return [action.event for action in self.seen if isinstance(action, Say)]
