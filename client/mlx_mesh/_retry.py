"""When to send a refused request again: jittered exponential backoff, within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh_wire import MeshError

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
BUDGET_MAX = 10.0
BUDGET_PER_REQUEST = 0.1
"""A retry costs one token; every request earns a tenth, up to ten: a broken mesh sees at most 10% more traffic.

gRPC's retry throttling (proposal A6) uses the same scheme.
"""


class RetryBudget:
    """Tokens for retries, shared by all calls of one client."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._tokens = BUDGET_MAX

    def earn(self) -> None:
        """A request was made."""
        self._tokens = min(BUDGET_MAX, self._tokens + BUDGET_PER_REQUEST)

    def pause_s(self, error: MeshError, retries: int) -> float | None:
        """Return how long to wait before trying again, or None to give up."""
        if not error.retryable or self._tokens < 1.0:
            return None
        self._tokens -= 1.0
        backoff_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**retries)
        # The jitter only adds to what the broker asked for: sooner, it would refuse again.
        return max(error.retry_after_ms / 1000, backoff_s * 0.5) + backoff_s * self._random()
