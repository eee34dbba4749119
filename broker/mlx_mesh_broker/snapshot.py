"""A copy of the broker's figures, which another thread may read at leisure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_mesh_broker.core.metrics import Metrics

HISTOGRAMS = {
    "queue_time_seconds": ("queue_time", "Time from arrival to the last dispatch."),
    "e2e_request_latency_seconds": ("request_time", "Time from arrival to the answer."),
    "time_to_first_token_seconds": ("first_chunk", "Time from arrival to the first chunk of a stream."),
}
"""Metric name, after vLLM's, to the attribute of OpMetrics and the help text."""


class Snapshot:
    """A copy of everything that is shown, taken by the broker's loop between two messages."""

    def __init__(
        self,
        metrics: Metrics,
        status: dict[str, Any],
        shell: dict[str, int],
        loop_gap_s: float = 0.0,
        auth: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        self.status = status
        self.auth = dict(auth or {})
        self.loop_gap_s = loop_gap_s
        self.shell = shell
        self.counts = dict(metrics.counts)
        self.quota_refused = dict(metrics.quota_refused)
        self.accepted, self.answered = metrics.accepted, metrics.answered
        self.ops = {
            key: (
                dict(op.outcomes),
                op.chunks,
                {attr: (list(getattr(op, attr).counts), getattr(op, attr).sum) for attr, _ in HISTOGRAMS.values()},
            )
            for key, op in metrics.ops.items()
        }
