"""What a request costs the broker's core alone, by number of workers and by length of the queue."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks.figures import median_of_ratios
from benchmarks.processes import Conversation, Group
from benchmarks.progress import progress
from benchmarks.results import Result, Target

WORKERS = (2, 64, 1024)
QUEUED = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 15
REQUESTS = 10_000
MEMORY_QUEUED = 100_000
MEMORY_MAX_BYTES = 2048.0
"""What docs/operations.md promises."""

QUICK_WORKERS = (2, 64)
QUICK_QUEUED = (1_000, 10_000)
QUICK_ROUNDS = 5
QUICK_REQUESTS = 2_000
QUICK_MEMORY_QUEUED = 5_000

MODULE = "benchmarks.scale_core"
Place = tuple[int, int]
"""Workers and queued requests."""


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure every combination in interleaved rounds; write scale.json and scale.svg."""
    workers, queued = (QUICK_WORKERS, QUICK_QUEUED) if quick else (WORKERS, QUEUED)
    places = [(w, q) for w in workers for q in queued]
    samples: dict[Place, list[float]] = {place: [] for place in places}
    requests = QUICK_REQUESTS if quick else REQUESTS
    with Group() as group:
        memory = _memory(group, QUICK_MEMORY_QUEUED if quick else MEMORY_QUEUED)
        progress(f"scale: {memory:,.0f} bytes for a queued request")
        cores = _start(group, places)
        for number in range(QUICK_ROUNDS if quick else ROUNDS):
            for place, core in cores.items():
                core_ns = float(core.ask(str(requests)))
                if number:  # the first round only warms up
                    samples[place].append(core_ns)
    for place, found in samples.items():
        progress(f"scale: {place[0]:5} workers, {place[1]:9,} queued: {median(found):8,.0f} ns")
    result = Result("scale", targets(samples, memory), _data(samples, memory), quick)
    result.save(folder)
    _plot(samples, folder)
    return result


def targets(samples: dict[Place, list[float]], memory: float) -> list[Target]:
    """Return the lines of the table: the worst ratio to the smallest mesh, each way and over all."""
    fewest, shortest = min(samples)
    base = samples[fewest, shortest]
    groups = {
        f"core, cost per request from {fewest} to {max(w for w, _ in samples)} workers": [
            place for place in samples if place[1] == shortest
        ],
        f"core, cost per request from {shortest:.0e} to {max(q for _, q in samples):.0e} queued": [
            place for place in samples if place[0] == fewest
        ],
        "core, cost per request over all of these": list(samples),
    }
    found = []
    for what, places in groups.items():
        ratios = {place: median_of_ratios(samples[place], base) for place in places}
        low, high = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
        spread = median_of_ratios(samples[high], samples[low])
        detail = f"{median(samples[low]):,.0f} ns at {_name(low)}, {median(samples[high]):,.0f} ns at {_name(high)}"
        found.append(Target(what, "at most", 2.0, spread, "x", detail))
    what = "core, memory of a queued request besides its body"
    return [*found, Target(what, "at most", MEMORY_MAX_BYTES, memory, "bytes", "by tracemalloc")]


def _start(group: Group, places: list[Place]) -> dict[Place, Conversation]:
    cores = {}
    for workers, queued in places:
        progress(f"scale: filling a core with {workers} workers and {queued:,} requests")
        cores[workers, queued] = core = group.talk(MODULE, str(workers), str(queued))
        core.hear()
    return cores


def _memory(group: Group, queued: int) -> float:
    core = group.talk(MODULE, "2", str(queued))
    core.hear()
    return float(core.ask("memory"))


def _name(place: Place) -> str:
    return f"{place[0]} workers and {place[1]:.0e} queued"


def _data(samples: dict[Place, list[float]], memory: float) -> dict[str, object]:
    rows = [
        {"workers": workers, "queued": queued, "median_ns": median(found), "rounds_ns": found}
        for (workers, queued), found in samples.items()
    ]
    return {"memory_bytes_per_queued": memory, "places": rows}


def _plot(samples: dict[Place, list[float]], folder: Path) -> None:
    from benchmarks.plots import lines

    workers, queued = ({place[axis] for place in samples} for axis in (0, 1))
    by_queue = {f"{w} workers": [(q, median(samples[w, q])) for q in sorted(queued)] for w in sorted(workers)}
    by_workers = {f"{q:,} queued": [(w, median(samples[w, q])) for w in sorted(workers)] for q in sorted(queued)}
    title = "Cost of a request in the broker's core"
    lines(folder / "scale.svg", title, {"requests queued": by_queue, "workers": by_workers}, "ns per request")
