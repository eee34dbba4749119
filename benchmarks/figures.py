"""Arithmetic of the benchmarks: percentiles, medians, ratios per round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import StatisticsError, linear_regression, median


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least ``share`` (0 to 1) of the samples do not exceed.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there are no samples to take a percentile of")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency_summary(samples: Sequence[float]) -> dict[str, float]:
    """Return count and percentiles of latencies, in the unit of the samples."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {"count": len(samples), **{name: percentile(samples, share) for name, share in shares.items()}}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round; a round with a figure missing (NaN or zero) is left out."""
    pairs = zip(ours, theirs, strict=True)
    return [a / b for a, b in pairs if a and b and not math.isnan(a) and not math.isnan(b)]


def median_of_ratios(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of ours / theirs; NaN if no round has both.

    Both sides of a ratio were measured within seconds of each other, so a noisy machine shifts them together.
    """
    found = ratios(ours, theirs)
    return median(found) if found else math.nan


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the line that fits the points best.

    Raises:
        ValueError: fewer than two points, or all at one place.
    """
    try:
        return linear_regression(x, y).slope
    except StatisticsError as error:
        raise ValueError(f"no line fits {len(x)} points: {error}") from error


def by_peer(rounds: Sequence[Mapping[str, Mapping[str, float]]], peer: str, figure: str) -> list[float]:
    """Return one figure of one peer in every round, NaN where a round lacks it."""
    return [each.get(peer, {}).get(figure, math.nan) for each in rounds]
