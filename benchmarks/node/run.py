"""Runs the rounds, each contestant in turn, and compares within rounds."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import by_peer, median_of_ratios
from benchmarks.machine import versions
from benchmarks.node.contest import EMBED, MESH, NATS, NATS_NODE, PISCINA, SPAWNED, Contest, Figures
from benchmarks.node.tools import MissingError, prepare
from benchmarks.progress import progress
from benchmarks.results import Result, Target

ROUNDS = 7
SECONDS = 2.0
EMBED_SECONDS = 4.0
QUICK_ROUNDS = 1
QUICK_SECONDS = 0.4

EMBED_P95_MS = 250.0
"""What the tools of a Node service have to answer within."""

SPAWNED_RATIO = 10.0
"""A process for each call is what the mesh replaces; less than that would not be worth a mesh."""

ORDER = (MESH, NATS, NATS_NODE, PISCINA, SPAWNED)

Rounds = list[dict[str, Figures]]


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure all contestants in interleaved rounds; write node.json and node.svg."""
    rounds: Rounds = []
    skipped: list[str] = []
    measured_with = versions()
    try:
        progress("node: compiling the client")
        tools = prepare()
    except MissingError as error:
        skipped.append(f"node: {error}")
    else:
        measured_with |= tools.versions
        progress("node: starting the meshes and their peers")
        with Contest(tools) as contest:
            skipped += contest.skipped
            for number in range(QUICK_ROUNDS if quick else ROUNDS):
                rounds.append(_round(contest, number, quick))
    for each in skipped:
        progress(f"node: left out: {each}")
    result = Result("node", targets(rounds), _data(rounds), quick, skipped, versions=measured_with)
    result.save(folder)
    _plot(result, folder)
    return result


def _round(contest: Contest, number: int, quick: bool) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    names = list(contest.contestants)
    for name in names[number % len(names) :] + names[: number % len(names)]:
        figures[name] = found = contest.echo(name, QUICK_SECONDS if quick else SECONDS)
        progress(
            f"node: round {number + 1}, {name}: p50 {found['p50_1']:.0f} us, {found['calls_per_s']:,.0f} calls/s, "
            f"CPU {found['client_cpu_us'] + found['service_cpu_us']:.0f} us a call"
        )
    figures[EMBED] = found = contest.embed(QUICK_SECONDS if quick else EMBED_SECONDS)
    progress(f"node: round {number + 1}, embed: p95 {found['p95']:.0f} ms, {found['texts_per_s']:.0f} texts/s")
    return figures


def targets(rounds: Rounds) -> list[Target]:
    """Return the lines of the table."""

    def versus(peer: str, bound: float) -> Target:
        ours, theirs = by_peer(rounds, MESH, "calls_per_s"), by_peer(rounds, peer, "calls_per_s")
        detail = ", ".join(f"{name} {_median(rounds, name, 'calls_per_s'):,.0f} calls/s" for name in (MESH, peer))
        what = f"Node client, echo calls/s at 64 in flight, of: {peer}"
        return Target(what, "at least", bound, median_of_ratios(ours, theirs), "x", detail)

    p50, p95 = (_median(rounds, EMBED, figure) for figure in ("p50", "p95"))
    detail = f"p50 {p50:,.0f} ms, {_median(rounds, EMBED, 'texts_per_s'):,.0f} texts/s"
    what = "Node client, embed of single texts by 8 callers: p95"
    return [
        versus(NATS, 1.0),
        versus(NATS_NODE, 1.0),
        versus(SPAWNED, SPAWNED_RATIO),
        Target(what, "at most", EMBED_P95_MS, p95, "ms", detail),
    ]


def _median(rounds: Rounds, name: str, figure: str) -> float:
    return median(by_peer(rounds, name, figure) or [float("nan")])


def _data(rounds: Rounds) -> dict[str, Any]:
    names = list(rounds[0]) if rounds else []
    medians = {name: {figure: _median(rounds, name, figure) for figure in rounds[0][name]} for name in names}
    return {"tables": [_table(rounds)] if rounds else [], "medians": medians, "rounds": rounds}


def _table(rounds: Rounds) -> list[list[str]]:
    head = [
        "Node client, echo of 1 KB",
        "1 in flight: p50, p95, p99 us",
        "calls/s",
        "64 in flight: p50, p95, p99 us",
        "calls/s",
        "mesh of it",
        "CPU us a call: client, services",
    ]
    return [head, *(_row(rounds, name) for name in ORDER if name in rounds[0])]


def _row(rounds: Rounds, name: str) -> list[str]:
    def shown(*figures: str) -> str:
        return ", ".join(f"{_median(rounds, name, figure):,.0f}" for figure in figures)

    ratio = median_of_ratios(by_peer(rounds, MESH, "calls_per_s"), by_peer(rounds, name, "calls_per_s"))
    return [
        name,
        shown("p50_1", "p95_1", "p99_1"),
        shown("calls_per_s_1"),
        shown("p50_64", "p95_64", "p99_64"),
        shown("calls_per_s"),
        "" if name == MESH else f"{ratio:.2f} x",
        shown("client_cpu_us", "service_cpu_us") if name not in (PISCINA, SPAWNED) else shown("client_cpu_us"),
    ]


def _plot(result: Result, folder: Path) -> None:
    from benchmarks.plots import bars

    medians = {name: found for name, found in result.data["medians"].items() if name != EMBED}
    if not medians:
        return
    panels = {
        "calls/s at 64 in flight": "calls_per_s",
        "p50 at 1 in flight, microseconds": "p50_1",
        "p99 at 64 in flight, microseconds": "p99_64",
        "CPU of the client, us a call at 64 in flight": "client_cpu_us",
    }
    chosen = {title: {name: found[figure] for name, found in medians.items()} for title, figure in panels.items()}
    bars(folder / "node.svg", "Node client: echo of 1 KB", chosen)
