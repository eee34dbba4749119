"""Waiting until ops have warm workers; the same for both kinds of client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlx_mesh._options import check_op, check_timeout
from mlx_mesh_wire import InvalidRequestError, NoWorkerError

if TYPE_CHECKING:
    from mlx_mesh_wire import DeadlineExceededError, MeshError

INTERVAL_S = 0.05
"""How often the status is asked for: workers start in tenths of a second."""


class Waiting:
    """The ops that are waited for, and until when."""

    def __init__(self, ops: Iterable[str], timeout_s: float, now: float) -> None:
        if not isinstance(ops, Iterable):
            raise InvalidRequestError(f"ops is {ops!r}; allowed: a list of ops", details={"field": "ops"})
        self._ops = [check_op(op) for op in ([ops] if isinstance(ops, str) else ops)]
        if not self._ops:
            raise InvalidRequestError("ops is empty; name at least one op", details={"field": "ops"})
        self._timeout_s = check_timeout(timeout_s)
        self._until = now + self._timeout_s
        self._missing: list[str] = []

    def left(self, now: float) -> float:
        """Return the seconds that are left, at least a moment."""
        return max(0.01, self._until - now)

    def satisfied(self, status: dict[str, Any], now: float) -> bool:
        """Whether each op has a worker that is ready.

        Raises:
            NoWorkerError: time is up.
        """
        served = {op for worker in status["workers"] if worker["state"] == "ready" for op in worker["ops"]}
        self._missing = [op for op in self._ops if op not in served]
        if self._missing and now >= self._until:
            raise self._too_late()
        return not self._missing

    def unanswered(self, error: DeadlineExceededError) -> MeshError:
        """Return what to raise when the last status did not come in the little time that was left for it."""
        return self._too_late() if self._missing else error

    def _too_late(self) -> NoWorkerError:
        return NoWorkerError(f"no ready worker for {', '.join(self._missing)} within {self._timeout_s:g} s")
