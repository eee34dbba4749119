"""Runs the rounds of the embed benchmark and compares within rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.embed.contest import Contest
from benchmarks.embed.texts import texts
from benchmarks.figures import by_peer, median_of_ratios
from benchmarks.progress import progress
from benchmarks.results import Result, Target

ROUNDS = 5
SECONDS = 8.0
QUICK_ROUNDS = 1
QUICK_SECONDS = 4.0

TEXTS_PER_S = "texts_per_s"
INTERACTIVE = "interactive beside bulk"
WARM = "mesh, one text"
COLD = "process per call"
Rounds = list[dict[str, dict[str, float]]]


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure all contestants in interleaved rounds; write embed.json and embed.svg."""
    seconds = QUICK_SECONDS if quick else SECONDS
    rounds: Rounds = []
    progress(f"embed: starting everybody; the corpus has {len(texts())} paragraphs of docstrings")
    with Contest() as contest:
        skipped = [] if len(contest.contestants()) > 4 else ["mosec: not installed (scripts/setup peers)"]
        for number in range(QUICK_ROUNDS if quick else ROUNDS):
            rounds.append(_round(contest, number, seconds))
    result = Result("embed", targets(rounds), _data(rounds), quick, skipped)
    result.save(folder)
    _plot(result, folder)
    return result


def _round(contest: Contest, number: int, seconds: float) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    order = list(contest.contestants().items())
    # The two sides of a ratio stay neighbours, but who of them comes first changes.
    for name, measure in order if number % 2 == 0 else reversed(order):
        figures[name] = {TEXTS_PER_S: measure(seconds)}
        progress(f"embed: round {number + 1}, {name}: {figures[name][TEXTS_PER_S]:,.0f} texts/s")
    latencies: tuple[tuple[str, Callable[[], dict[str, float]]], ...] = (
        (WARM, lambda: contest.single(seconds / 2)),
        (COLD, contest.spawned),
        (INTERACTIVE, lambda: contest.interactive_beside_bulk(seconds)),
    )
    for name, ask in latencies:
        figures[name] = found = ask()
        progress(f"embed: round {number + 1}, {name}: p50 {found['p50']:.1f} ms, p95 {found['p95']:.1f} ms")
    return figures


def targets(rounds: Rounds) -> list[Target]:
    """Return the lines of the table."""

    def rate(peer: str) -> list[float]:
        return by_peer(rounds, peer, TEXTS_PER_S)

    def versus(ours: str, theirs: str, bound: float, label: str) -> Target:
        detail = f"{median(rate(ours)):,.0f} and {median(rate(theirs)):,.0f} texts/s"
        return Target(label, "at least", bound, median_of_ratios(rate(ours), rate(theirs)), "x", detail)

    p95 = median(by_peer(rounds, INTERACTIVE, "p95"))
    p50 = median(by_peer(rounds, INTERACTIVE, "p50"))
    beside = median(by_peer(rounds, INTERACTIVE, "bulk_texts_per_s"))
    cold, warm = by_peer(rounds, COLD, "p50"), by_peer(rounds, WARM, "p50")
    return [
        versus("mesh, 1 worker", "loop, 1 process", 0.95, "embed texts/s, 1 worker, of the engine in a loop"),
        versus("mesh, 2 workers", "loop, 2 processes", 0.95, "embed texts/s, 2 workers, of two loops side by side"),
        versus("mesh, 2 workers", "mosec, 2 workers", 1.0, "embed texts/s, 2 workers, of mosec's"),
        Target(
            "one warm text through the mesh: a process per call takes",
            "at least",
            10.0,
            median_of_ratios(cold, warm),
            "x",
            f"{median(warm):,.1f} ms warm, {median(cold):,.0f} ms in a new process",
        ),
        Target(
            "single texts, 8 clients, beside bulk: p95",
            "at most",
            250.0,
            p95,
            "ms",
            f"p50 {p50:,.0f} ms; bulk went on with {beside:,.0f} texts/s",
        ),
    ]


def _data(rounds: Rounds) -> dict[str, Any]:
    medians = {
        name: {figure: median(by_peer(rounds, name, figure)) for figure in figures}
        for name, figures in rounds[0].items()
    }
    return {"texts": len(texts()), "medians": medians, "rounds": rounds}


def _plot(result: Result, folder: Path) -> None:
    from benchmarks.plots import bars

    medians = result.data["medians"]
    saturated = {name: found[TEXTS_PER_S] for name, found in medians.items() if TEXTS_PER_S in found}
    waits = {"mesh, warm": WARM, "mesh, beside bulk": INTERACTIVE, COLD: COLD}
    panels = {
        "texts/s, saturated": saturated,
        "one text, p50 in milliseconds": {label: medians[name]["p50"] for label, name in waits.items()},
    }
    bars(folder / "embed.svg", "all-MiniLM-L6-v2 on docstrings", panels)
