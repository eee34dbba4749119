"""Runs the rounds, each peer in turn, and compares within rounds."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.figures import by_peer, median_of_ratios
from benchmarks.processes import Group
from benchmarks.progress import progress
from benchmarks.results import Result, Target
from benchmarks.rpc.peers import Missing, Peer, start_all

ROUNDS = 7
SECONDS = 2.0
QUICK_ROUNDS = 1
QUICK_SECONDS = 0.4

Rounds = list[dict[str, dict[str, float]]]


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure all peers in interleaved rounds; write rpc.json and rpc.svg."""
    rounds: Rounds = []
    seconds = QUICK_SECONDS if quick else SECONDS
    with Group() as group:
        progress("rpc: starting the mesh and its peers")
        peers, missing = start_all(group)
        for each in missing:
            progress(f"rpc: {each.name} is left out: {each.reason}")
        for number in range(QUICK_ROUNDS if quick else ROUNDS):
            rounds.append(_round(group, peers, number, seconds))
    result = Result("rpc", targets(rounds), _data(rounds, peers), quick, _skipped(missing))
    result.save(folder)
    _plot(result, folder)
    return result


def _round(group: Group, peers: list[Peer], number: int, seconds: float) -> dict[str, dict[str, float]]:
    figures = {}
    for peer in peers[number % len(peers) :] + peers[: number % len(peers)]:
        args = (peer.client, peer.address, str(peer.middle_pid), str(seconds))
        figures[peer.name] = found = group.ask("benchmarks.rpc.load", *args)
        progress(
            f"rpc: round {number + 1}, {peer.name}: p50 {found['p50']:.0f} us, "
            f"{found['requests_per_s']:,.0f} requests/s, middle {found['middle_cpu_us']:.1f} us"
        )
    return figures


def targets(rounds: Rounds) -> list[Target]:
    """Return the lines of the table that the design asks for."""

    def ratio(figure: str, peer: str, ours: str = "mesh") -> float:
        return median_of_ratios(by_peer(rounds, ours, figure), by_peer(rounds, peer, figure))

    def detail(figure: str, peer: str, unit: str, ours: str = "mesh") -> str:
        names = (ours, peer)
        values = [statistics.median(by_peer(rounds, name, figure)) for name in names]
        return ", ".join(f"{name} {value:,.0f} {unit}" for name, value in zip(names, values, strict=True))

    rate = "requests_per_s"
    found = [
        Target(
            "echo p50 at 1 in flight, of NATS'", "at most", 1.0, ratio("p50", "nats"), "x", detail("p50", "nats", "us")
        )
    ]
    for peer, bound in (("nats", 1.0), ("mosec", 3.0), ("mosec, aiohttp", 3.0), ("zerorpc", 8.0)):
        what = f"echo requests/s at 64 in flight, of {peer}'s"
        found.append(Target(what, "at least", bound, ratio(rate, peer), "x", detail(rate, peer, "requests/s")))
    for ours in ("mesh", "mesh, raw client"):
        what = f"broker CPU per request at 64 in flight, of zmq.proxy's ({'AsyncMesh' if ours == 'mesh' else ours})"
        figure = "middle_cpu_us"
        text = detail(figure, "zmq.proxy", "us", ours)
        found.append(Target(what, "at most", 2.5, ratio(figure, "zmq.proxy", ours), "x", text))
    return found


def _data(rounds: Rounds, peers: list[Peer]) -> dict[str, Any]:
    names = [peer.name for peer in peers]
    figures = [*next(iter(rounds[0].values()))]
    medians = {n: {f: statistics.median(by_peer(rounds, n, f)) for f in figures} for n in names}
    return {"peers": names, "medians": medians, "rounds": rounds}


def _skipped(missing: list[Missing]) -> list[str]:
    return [f"{each.name}: {each.reason}" for each in missing]


def _plot(result: Result, folder: Path) -> None:
    from benchmarks.plots import bars

    medians = result.data["medians"]
    panels = {
        "p50 at 1 in flight, microseconds": "p50",
        "p99 at 1 in flight, microseconds": "p99",
        "requests/s at 64 in flight": "requests_per_s",
        "CPU of the middle process, us per request": "middle_cpu_us",
    }
    chosen = {title: {peer: medians[peer][figure] for peer in medians} for title, figure in panels.items()}
    bars(folder / "rpc.svg", "Echo of 1 KB, two workers", chosen)
