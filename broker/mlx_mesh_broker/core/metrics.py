"""Plain counters and histograms, cheap enough for the hot path; the shell renders them for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

BUCKETS_S: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper bounds of the buckets, in seconds; 0.25 is the promise to interactive callers."""

SERIES_MAX: Final = 1024
"""Pairs of op and model with figures of their own. They are never dropped, or counters would go back."""

KEYS_MAX: Final = 256
"""Keys with series of their own, which stay when the key is revoked."""

OK: Final = "OK"
"""Outcome of a request that got its result; the other outcomes are the codes of the error table."""

NOBODY: Final = ("", "")
"""Key of the figures of ops that no worker serves."""


class Histogram:
    """Counts by bucket, the last one for everything above the bounds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum += seconds


class OpMetrics:
    """Figures of one op and model.

    Attributes:
        outcomes: requests answered, by ``(lane, outcome)``.
        queue_time: from arrival to the last dispatch.
        request_time: from arrival to the answer.
        first_chunk: from arrival to the first chunk of a stream.
        chunks: stream chunks passed on.
    """

    __slots__ = ("chunks", "first_chunk", "outcomes", "queue_time", "request_time")

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[int, str]] = Counter()
        self.queue_time = Histogram()
        self.request_time = Histogram()
        self.first_chunk = Histogram()
        self.chunks = 0


class Metrics:
    """All counters of the core.

    Attributes:
        ops: by ``(op, model)``; ``*`` gathers models that no worker lists, and ``("", "")`` ops that no worker serves,
            so that clients cannot add series.
        accepted: requests taken in, which is those answered plus those outstanding.
        quota_refused: what keys were refused, by ``(key, quota)``; an empty key gathers those that are not authorised,
            and those over ``KEYS_MAX``.
        counts: everything else, by name: ``dispatched``, ``requeued``, ``returned``, ``late_answers``, ``evicted``,
            ``shared``, ``cache_hits``, ``cache_misses``, ``duplicates``, ``poisoned``, ``quarantined``,
            ``malformed_client``, ``malformed_worker``, ``worker_complaints``, ``workers_lost``, ``workers_stalled``,
            ``again``, ``resumed``, ``resets``, ``held_up``, ``credit_overruns``, ``records_dropped``.
    """

    def __init__(self) -> None:
        self.ops: dict[tuple[str, str], OpMetrics] = {}
        self.accepted = 0
        self.answered = 0
        self.quota_refused: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self._keys = {""}

    def op(self, key: tuple[str, str]) -> OpMetrics:
        """Return the figures of an op and model, made on first use while there is room."""
        found = self.ops.get(key)
        if found is None:
            key = key if len(self.ops) < SERIES_MAX else NOBODY
            found = self.ops.setdefault(key, OpMetrics())
        return found

    def over_quota(self, key: str, quota: str) -> None:
        """Count what a key was refused."""
        if len(self._keys) <= KEYS_MAX:
            self._keys.add(key)
        self.quota_refused[key if key in self._keys else "", quota] += 1

    def refused(self, op: str) -> OpMetrics:
        """Return where a request is counted that has no queue."""
        return self.ops.get((op, "")) or self.op(NOBODY)
