"""The guard's side of supervisord: which processes there are and why some do not run, and what is done to them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire.logs import log
from mlx_mesh_wire.supervisor import Supervisor, SupervisorError, full_name
from mlx_mesh_worker.guard.actions import AddStandIn, Dump, Kill, Remove, Restart, Start
from mlx_mesh_worker.guard.backoff import Backoff
from mlx_mesh_worker.guard.reasons import TAIL_BYTES, reason_of
from mlx_mesh_worker.guard.samples import ProcessSample

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from mlx_mesh_worker.guard.actions import Action

ANSWER_MAX_S = 5.0
"""supervisord answers within milliseconds, unless it is writing to a slow disk."""

BROKER = "broker"
"""The program of supervisord.conf that is retried as the workers are."""

ENDED = frozenset({"FATAL", "EXITED", "BACKOFF"})


class SupervisorLink:
    """Speaks to the supervisord of a run directory.

    Args:
        run_dir: where its socket and the logs lie.
        groups: those whose workers are looked after; empty for all.

    Attributes:
        stopping: supervisord says that it is stopping everything.
    """

    def __init__(self, run_dir: Path, groups: Collection[str]) -> None:
        self._supervisor = Supervisor(run_dir, timeout=ANSWER_MAX_S)
        self._groups = groups
        self._backoff = Backoff("supervisord")
        self._reasons: dict[str, tuple[tuple[str, int], str]] = {}
        self._programs: dict[str, str] = {}
        self.stopping = False
        self._do: dict[type, Callable[[Any], Any]] = {
            Restart: lambda action: self._supervisor.restart(action.process, hurry=action.hurry),
            Start: lambda action: self._supervisor.start(action.process),
            Kill: lambda action: self._supervisor.signal(action.process, "KILL"),
            Dump: lambda action: self._supervisor.signal(action.process, "USR1"),
            AddStandIn: self._add_stand_in,
            Remove: lambda action: self._supervisor.remove(action.process),
        }

    @property
    def failures(self) -> int:
        """How often it did not answer."""
        return self._backoff.failures

    def expect(self) -> None:
        """Something changed: try again at once, though the last try was in vain."""
        self._backoff.reset()

    def groups_with_workers(self) -> set[str] | None:
        """Return the groups of supervisord that have workers; None while it does not answer."""
        try:
            return {group["group"] for group in self._supervisor.groups() if group["worker"]}
        except SupervisorError as error:
            if not error.unreachable:
                raise
            self._backoff.failed(time.monotonic(), str(error))
            return None

    def processes(self) -> list[ProcessSample] | None:
        """Return all processes; None while supervisord does not answer."""
        now = time.monotonic()
        if not self._backoff.may_try(now):
            return None
        try:
            found = self._supervisor.look()
            self._programs = {full_name(info): info["program"] for info in found}
            samples = [self._sample(info) for info in found]
        except SupervisorError as error:
            self.stopping = error.stopping
            if not error.stopping:
                self._backoff.failed(now, str(error))
            return None
        self.stopping = False
        self._backoff.worked()
        return samples

    def do(self, action: Action) -> None:
        """Have supervisord do something; what it refuses is logged, and decided anew with the next sample."""
        try:
            self._do[type(action)](action)
        except SupervisorError as error:
            if not error.stopping:
                log("warning", "supervisord_refused", action=type(action).__name__.lower(), reason=str(error))

    def _add_stand_in(self, action: AddStandIn) -> None:
        group = action.process.partition(":")[0]
        self._supervisor.add(group, self._programs.get(action.process, ""), stand_in=True)

    def _sample(self, info: dict[str, Any]) -> ProcessSample:
        started = max(0, info["now"] - info["start"]) if info["pid"] else 0
        looked_after = not self._groups or info["group"] in self._groups
        return ProcessSample(
            name=info["name"],
            group=info["group"],
            state=info["statename"],
            pid=info["pid"],
            running_s=float(started),
            worker=bool(info["worker"]) and looked_after,
            broker=info["program"] == BROKER,
            stand_in=bool(info["stand_in"]),
            restarting=bool(info["restarting"]),
            reason=self._reason(info) if info["statename"] in ENDED else "",
        )

    def _reason(self, info: dict[str, Any]) -> str:
        """Return why it ended; its log is read once for each end."""
        name = full_name(info)
        end = (info["statename"], info["stop"])
        known = self._reasons.get(name)
        if known is None or known[0] != end:
            self._reasons[name] = known = end, reason_of(self._tail(name), info["exitstatus"], info["spawnerr"])
        return known[1]

    def _tail(self, name: str) -> str:
        try:
            return self._supervisor.log_tail(name, TAIL_BYTES)
        except SupervisorError as error:
            if error.unreachable or error.stopping:
                raise
            return ""  # It was taken out of its group meanwhile.
