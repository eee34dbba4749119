"""What the generate benchmark found, as targets, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import median_of_ratios, percentile
from benchmarks.generate.contest import BARE, MESH, ONE_PROCESS, SERVER
from benchmarks.generate.tables import beside_table, streams_table
from benchmarks.results import Result, Target

OF_BARE, OF_SERVER, FIRST_OF_SERVER = 0.9, 3.0, 10.0
"""Asked for at 32 streams: tokens/s as a share of the bare generator's and of the server's, and how much longer the
server's first token takes."""

CANCEL_STEPS = 1.0
"""A step that has begun is not stopped, so a cancel may wait for one, and another may begin while it travels."""

GAP_OF_USUAL = 4.0
"""A long prompt is read in pieces that take about as long as a step of the running texts."""

SHORT_MS = 250.0
"""What an interactive call may take at p95."""

PREFIX_GAIN = 5.0

Round = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Figures by number of streams and contestant."""

RATE, FIRST = "tokens_per_s", "first_p95_ms"


def series(rounds: Sequence[Round], streams: str, name: str, figure: str) -> list[float]:
    """Return a figure of each round."""
    return [each[streams][name][figure] for each in rounds]


def ratio(rounds: Sequence[Round], streams: str, figure: str, ours: str, theirs: str) -> float:
    """Return the median over rounds of one contestant's figure divided by another's."""
    return median_of_ratios(series(rounds, streams, ours, figure), series(rounds, streams, theirs, figure))


def targets(rounds: Sequence[Round], beside: Mapping[str, Any], side: int) -> list[Target]:
    """Return the lines of the table."""
    most = max(rounds[0], key=int)

    def both(figure: str, theirs: str, unit: str) -> str:
        found = [(name, median(series(rounds, most, name, figure))) for name in (MESH, theirs)]
        return ", ".join(f"{name} {value:,.0f} {unit}" for name, value in found)

    rate = f"generate tokens/s, {most} streams, of"
    return [
        Target(
            f"{rate} a bare BatchGenerator's",
            "at least",
            OF_BARE,
            ratio(rounds, most, RATE, MESH, BARE),
            "x",
            both(RATE, BARE, "tokens/s"),
        ),
        Target(
            f"{rate} mlx_lm.server's",
            "at least",
            OF_SERVER,
            ratio(rounds, most, RATE, MESH, SERVER),
            "x",
            both(RATE, SERVER, "tokens/s"),
        ),
        Target(
            f"first token p95, {most} streams: mlx_lm.server takes",
            "at least",
            FIRST_OF_SERVER,
            ratio(rounds, most, FIRST, SERVER, MESH),
            "x",
            both(FIRST, SERVER, "ms"),
        ),
        *_beside_targets(beside, side),
    ]


def _beside_targets(beside: Mapping[str, Any], side: int) -> list[Target]:
    cancel, long, chat = beside["cancel"], beside["long"], beside["chat"]
    one, ours, theirs = cancel[ONE_PROCESS], cancel[MESH], cancel[SERVER]
    gaps = {name: median(each["worst_of_usual"] for each in found) for name, found in long.items()}
    shorts = {name: [ms for each in found for ms in each["short_first_ms"]] for name, found in long.items()}
    p95 = {name: percentile(found, 0.95) for name, found in shorts.items()}
    gain = {name: median_of_ratios(found["cold_ms"], found["known_ms"]) for name, found in chat.items()}
    usual = median(each["usual_ms"] for each in long[MESH])
    return [
        Target(
            "steps begun for a cancelled text, in one process, worst",
            "at most",
            CANCEL_STEPS,
            max(one["steps"]),
            "steps",
            f"out of the batch after {median(one['ms']):.0f} ms in the median",
        ),
        Target(
            f"steps begun for a text whose reader left, {side} streams, worst",
            "at most",
            CANCEL_STEPS,
            max(ours["steps"]),
            "steps",
            f"median {median(ours['ms']):.0f} ms; mlx_lm.server {median(theirs['ms']):.0f} ms "
            f"and {max(theirs['steps']):.0f} steps",
        ),
        Target(
            f"worst gap of {side} streams while a long prompt is read, of their usual one",
            "at most",
            GAP_OF_USUAL,
            gaps[MESH],
            "x",
            f"usual {usual:.0f} ms; mlx_lm.server {gaps[SERVER]:.3g} x",
        ),
        Target(
            "first token of short interactive prompts meanwhile: p95",
            "at most",
            SHORT_MS,
            p95[MESH],
            "ms",
            f"p50 {median(shorts[MESH]):,.0f} ms; mlx_lm.server p50 {median(shorts[SERVER]):,.0f} ms",
        ),
        Target(
            "second turn of a conversation: its first token takes, if it is unknown",
            "at least",
            PREFIX_GAIN,
            gain[MESH],
            "x",
            f"{median(chat[MESH]['known_ms']):,.0f} and {median(chat[MESH]['cold_ms']):,.0f} ms; "
            f"mlx_lm.server {gain[SERVER]:.3g} x",
        ),
    ]


def data(rounds: Sequence[Round], beside: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Return medians, ratios, tables and what they are made of."""
    streams = list(rounds[0])
    ratios = {
        number: {
            "tokens_per_s_of_bare": ratio(rounds, number, RATE, MESH, BARE),
            "tokens_per_s_of_server": ratio(rounds, number, RATE, MESH, SERVER),
            "server_first_p95_of_mesh": ratio(rounds, number, FIRST, SERVER, MESH),
            "first_p95_of_bare": ratio(rounds, number, FIRST, MESH, BARE),
        }
        for number in streams
    }
    medians = {
        number: {
            name: {figure: median(series(rounds, number, name, figure)) for figure in figures}
            for name, figures in rounds[0][number].items()
        }
        for number in streams
    }
    found = {"medians": medians, "ratios": ratios, "beside": beside, "rounds": rounds}
    return {"tables": [streams_table(found), beside_table(beside, side)], **found}


def plot(result: Result, folder: Path) -> None:
    """Draw generate.svg."""
    from benchmarks.plots import Panel, curves

    medians = result.data["medians"]

    def by_streams(figure: str) -> dict[str, list[tuple[float, float]]]:
        return {
            name: [(float(number), by_name[name][figure]) for number, by_name in medians.items()]
            for name in (MESH, BARE, SERVER)
        }

    def over_time(name: str) -> dict[str, list[tuple[float, float]]]:
        rounds = sorted(result.data["beside"]["long"][name], key=lambda each: each["worst_of_usual"])
        chosen = rounds[len(rounds) // 2]
        first = chosen["long_first_ms"] / 1e3
        return {
            "worst in each 0.1 s": [(at, gap) for at, gap in chosen["over_time"]],
            "usual": [(at, chosen["usual_ms"]) for at in (chosen["over_time"][0][0], chosen["over_time"][-1][0])],
            "the long prompt is read": [(0.0, chosen["usual_ms"]), (first, chosen["usual_ms"])],
        }

    side = result.data["side_streams"]
    tokens = f"{result.data['long_tokens']:,} tokens"
    panels = [
        Panel("throughput", by_streams(RATE), "streams", "tokens/s", log_x=True),
        Panel("first token", by_streams(FIRST), "streams", "p95, ms", log_x=True, log_y=True),
        *(
            Panel(
                f"{tokens} read beside {side} streams: {name}",
                over_time(name),
                "s",
                "gap, ms",
                log_y=True,
                marks=False,
            )
            for name in (MESH, SERVER)
        ),
    ]
    curves(folder / "generate.svg", f"Text by a llama of {result.data['parameters'] / 1e6:.0f} M parameters", panels)
