"""The files of a soak: every sample as CSV, the verdict as JSON, and a plot that is small enough to be kept."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.machine import machine, versions
from benchmarks.plots import Panel, curves
from tests.soak.run import Found
from tests.soak.sampling import Lives, Sample
from tests.soak.verdict import Line

T = TypeVar("T")

POINTS = 60
"""Of a line in the plot: the hours of a night would be megabytes."""

SHOWN = ("echo", "embed", "generate")


def save(found: Found, fitted: Sequence[Line], folder: Path) -> Path:
    """Write samples.csv, latencies.csv, soak.json and soak.svg; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("process", "pid", *Sample._fields))
        rows.writerows((name, pid, *each) for (name, pid), samples in found.lives.items() for each in samples)
    with (folder / "latencies.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("kind", "at_s", "p50_ms", "p95_ms", "p99_ms", "calls"))
        rows.writerows((kind, *each) for kind, each_kind in found.latencies.items() for each in each_kind)
    content = {
        "seconds": found.seconds,
        "done": found.done,
        "wrong": found.wrong,
        "recycles": found.recycles,
        "lines": [{**line._asdict(), "verdict": line.verdict} for line in fitted],
        "machine": machine(),
        "versions": versions(),
    }
    (folder / "soak.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    plot(found, folder / "soak.svg")
    return folder


def plot(found: Found, path: Path) -> None:
    """Draw memory, descriptors and latency over the time."""
    rss = drawn(found.lives, lambda sample: sample.rss / 2**20)
    fds = drawn(found.lives, lambda sample: float(sample.fds))
    shown = {kind: thinned(found.latencies.get(kind, [])) for kind in SHOWN}
    p50 = {kind: [(each.at_s / 60, each.p50) for each in values] for kind, values in shown.items()}
    p95 = {kind: [(each.at_s / 60, each.p95) for each in values] for kind, values in shown.items()}
    panels = [
        Panel("memory", rss, "minutes", "RSS, MiB", marks=False),
        Panel("descriptors", fds, "minutes", "open descriptors", marks=False),
        Panel("latency, median", p50, "minutes", "ms", log_y=True, marks=False),
        Panel("latency, 95th percentile", p95, "minutes", "ms", log_y=True, marks=False),
    ]
    curves(path, f"{found.seconds / 60:.3g} minutes of mixed load", panels)
    if path.exists():  # A hundredth of a point is seen by nobody; only scales need all of their digits.
        path.write_text(re.sub(r"(?<!\()(\d\.\d\d)\d+", r"\1", path.read_text(encoding="utf-8")), encoding="utf-8")


def drawn(lives: Lives, figure: Callable[[Sample], float]) -> dict[str, list[tuple[float, float]]]:
    """Return a line for each name, over minutes; between two lives of the same name it has a gap."""
    lines: dict[str, list[tuple[float, float]]] = {}
    sampled = Counter[str]()
    for (name, _), life in lives.items():
        sampled[name] += len(life)
    for (name, _), life in lives.items():
        line = lines.setdefault(name, [])
        if line:
            line.append((life[0].at_s / 60, math.nan))
        step = max(1, sampled[name] // POINTS)
        line += [(each.at_s / 60, figure(each)) for each in [*life[::step], life[-1]]]
    return lines


def thinned(values: Sequence[T]) -> list[T]:
    """Return about :data:`POINTS` of them, evenly."""
    step = max(1, len(values) // POINTS)
    return list(values[::step])
