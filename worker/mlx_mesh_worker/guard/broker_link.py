"""The guard's side of the broker's control socket: reports, orders, and what comes back of the workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import MeshError
from mlx_mesh_wire.control import command
from mlx_mesh_wire.endpoints import listening
from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.paths import ipc_endpoint
from mlx_mesh_worker.guard.backoff import Backoff
from mlx_mesh_worker.guard.samples import WorkerSample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlx_mesh_wire.guard_report import GuardReport

ANSWER_MAX_S = 2.0
"""The broker answers in microseconds; one that does not for so long is treated as absent for a while."""


class BrokerLink:
    """Speaks to the broker of this run directory, as long as there is one.

    Attributes:
        up_s: age of the broker; 0 while it does not answer.
        failures: how often it did not answer.
    """

    def __init__(self) -> None:
        self._backoff = Backoff("broker")
        self.up_s = 0.0

    @property
    def failures(self) -> int:
        """How often it did not answer."""
        return self._backoff.failures

    def expect(self) -> None:
        """Something changed: try again at once, though the last try was in vain."""
        self._backoff.reset()

    def tell(self, report: GuardReport, footprints: Mapping[int, int]) -> list[WorkerSample] | None:
        """Send the report; return the workers, with what their processes take, None if there is no good answer."""

        def read(answer: Any) -> tuple[list[WorkerSample], float]:
            return worker_samples(answer["workers"], footprints), float(answer["uptime_s"])

        arguments = {"report": report.as_map(), "pause": report.paused}
        workers, self.up_s = self._command("guard", arguments, read) or (None, 0.0)
        return workers

    def trim(self, level: int) -> None:
        """Tell the workers of this machine to give memory back."""
        self._command("trim", {"name": "*", "level": level})

    def drain(self, worker: str, pid: int) -> None:
        """Have a worker finish what it holds; the pid tells it from one of the same name that somebody started."""
        self._command("drain", {"name": worker, "on": True, "by": "guard", "pid": pid})

    def exited(self, pid: int) -> None:
        """A process has ended."""
        self._command("exited", {"pid": pid})

    def _command(
        self, name: str, arguments: Mapping[str, Any], read: Callable[[Any], Any] = lambda answer: answer
    ) -> Any:
        """Return what ``read`` finds in the answer; None if there is none."""
        now = time.monotonic()
        if not self._backoff.may_try(now):
            return None
        if not listening(ipc_endpoint("control")):
            self._backoff.failed(now, "nobody listens")
            return None
        try:
            found = read(command(name, arguments, timeout=ANSWER_MAX_S))
        except MeshError as error:
            # Without its answer to a report the guard sees nothing, so a refusal of that is to be said.
            if name == "guard" or error.code in ("DEADLINE_EXCEEDED", "PROTOCOL_ERROR"):
                self._backoff.failed(time.monotonic(), error.message)
            else:  # It answers, and refuses: a worker that has gone meanwhile, or a defect.
                log("debug", "command_refused", command=name, reason=error.message)
            return None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self._backoff.failed(time.monotonic(), f"the answer of another version to {name!r}: {error!r}")
            return None
        self._backoff.worked()
        return found


def worker_samples(workers: Sequence[Mapping[str, Any]], footprints: Mapping[int, int]) -> list[WorkerSample]:
    """Return what the broker says of its workers, with what their processes take."""
    found = []
    for worker in workers:
        remote = bool(worker["remote"])
        models = worker["models"] or [""]
        found.append(
            WorkerSample(
                name=worker["name"],
                pid=worker["pid"],
                state=worker["state"],
                serves=frozenset((op, model) for op in worker["ops"] for model in models),
                held=worker["in_flight"],
                served=worker["served"],
                uptime_s=worker["uptime_s"],
                remote=remote,
                drained_by=worker.get("drained_by", ""),
                footprint=None if remote else footprints.get(worker["pid"]),
                memory=worker["memory"],
            )
        )
    return found


def with_device(limits: list[Limit], workers: Sequence[WorkerSample]) -> list[Limit]:
    """Return the limits, and that of the device as the workers tell it unless its driver did.

    On Apple silicon nobody else can tell: it is Metal's recommended working set, and what all of them have of it.
    """
    here = [worker.memory for worker in workers if not worker.remote and worker.memory.get("mlx_limit")]
    if not here or any(limit.source == "device" for limit in limits):
        return limits
    used = sum(memory.get("mlx_active", 0) + memory.get("mlx_cache", 0) for memory in here)
    return [*limits, Limit("device", used, min(memory["mlx_limit"] for memory in here))]
