"""Tables of the generate benchmark: rows of text, of which the first is the head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

from benchmarks.figures import percentile
from benchmarks.generate.contest import BARE, MESH, SERVER

HEAD = (
    "streams",
    "",
    "tokens/s",
    "mesh of it",
    "first token p50, p95 ms",
    "mesh of it",
    "gap p50, p99 ms",
    "CPU ms/token",
)
READING = {
    "usual gap, ms": "usual_ms",
    "long prompt is read: median gap, ms": "meanwhile_ms",
    "long prompt is read: worst gap, ms": "worst_ms",
    "long prompt is read: worst gap, x usual": "worst_of_usual",
    "long prompt: first token, ms": "long_first_ms",
}


def streams_table(found: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each number of streams and contestant."""
    rows = [list(HEAD)]
    for number, by_name in found["medians"].items():
        ratios = found["ratios"][number]
        mesh_of_it = {
            BARE: (ratios["tokens_per_s_of_bare"], ratios["first_p95_of_bare"]),
            SERVER: (ratios["tokens_per_s_of_server"], 1 / ratios["server_first_p95_of_mesh"]),
        }
        for name, got in by_name.items():
            rate, first = (f"{each:.2f} x" for each in mesh_of_it[name]) if name in mesh_of_it else ("", "")
            firsts = f"{got['first_p50_ms']:,.0f}, {got['first_p95_ms']:,.0f}"
            gaps = f"{got['gap_p50_ms']:,.0f}, {got['gap_p99_ms']:,.0f}"
            rows.append([number, name, f"{got['tokens_per_s']:.0f}", rate, firsts, first, gaps, _cpu(got)])
    return rows


def _cpu(got: Mapping[str, float]) -> str:
    parts = [part for part in ("engine", "broker", "client") if f"{part}_cpu_s" in got]
    return ", ".join(f"{part} {got[f'{part}_cpu_s'] / got['all_tokens'] * 1e3:.2g}" for part in parts)


def beside_table(beside: Mapping[str, Any], side: int) -> list[list[str]]:
    """Return a row for each thing that happens beside running streams."""
    names = (MESH, SERVER)

    def row(what: str, cell: Callable[[str], str]) -> list[str]:
        return [what, *map(cell, names)]

    def left(name: str, figure: str) -> str:
        return _pair(beside["cancel"][name][figure], max)

    def reading(name: str, figure: str) -> str:
        return _short(median(each[figure] for each in beside["long"][name]))

    def shorts(name: str) -> str:
        every = [ms for each in beside["long"][name] for ms in each["short_first_ms"]]
        return _pair(every, lambda samples: percentile(list(samples), 0.95))

    def turns(name: str) -> str:
        chat = beside["chat"][name]
        return f"{_short(median(chat['known_ms']))}, {_short(median(chat['cold_ms']))}"

    return [
        [f"beside {side} streams", *names],
        row("reader left: out of the batch, p50, worst ms", lambda name: left(name, "ms")),
        row("reader left: steps begun until then, p50, worst", lambda name: left(name, "steps")),
        *(row(what, lambda name, figure=figure: reading(name, figure)) for what, figure in READING.items()),  # type: ignore[misc]
        row("short prompts meanwhile: first token p50, p95 ms", shorts),
        row("second turn (nothing beside it): first token, known, unknown ms", turns),
    ]


def _pair(samples: Iterable[float], worst: Callable[[Iterable[float]], float]) -> str:
    every = list(samples)
    return f"{_short(median(every))}, {_short(worst(every))}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
