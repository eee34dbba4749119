"""Waiting until ops have warm workers; the same for both kinds of client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import InvalidRequestError, NoWorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable

INTERVAL_S = 0.05
"""How often the status is asked for: workers start in tenths of a second."""


class Waiting:
    """The ops that are waited for, and until when."""

    def __init__(self, ops: Iterable[str], timeout_s: float, now: float) -> None:
        self._ops = [ops] if isinstance(ops, str) else list(ops)
        if not self._ops:
            raise InvalidRequestError("ops is empty; name at least one op", details={"field": "ops"})
        self._timeout_s = timeout_s
        self._until = now + timeout_s

    def left(self, now: float) -> float:
        """Return the seconds that are left, at least a moment."""
        return max(0.01, self._until - now)

    def satisfied(self, status: dict[str, Any], now: float) -> bool:
        """Whether each op has a worker that is ready.

        Raises:
            NoWorkerError: time is up.
        """
        served = {op for worker in status["workers"] if worker["state"] == "ready" for op in worker["ops"]}
        missing = [op for op in self._ops if op not in served]
        if missing and now >= self._until:
            raise NoWorkerError(f"no ready worker for {', '.join(missing)} within {self._timeout_s:g} s")
        return not missing
