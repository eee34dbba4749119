"""The final table, and the sections of docs/benchmarks.md and the README that show the reference results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.results import Result, Target, load

PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
REFERENCE = ROOT / "benchmarks" / "results" / "reference"
BEGIN = "<!-- results: written by python -m benchmarks report -->"
END = "<!-- end of results -->"
SHORT_BEGIN = "<!-- figures: written by python -m benchmarks report -->"
SHORT_END = "<!-- end of figures -->"
ORDER = ("rpc", "embed", "generate", "coldstart", "scale", "guard", "curve", "node")
GIB = 1024**3


def table(results: Sequence[Result]) -> str:
    """Return what was found beside what was aimed at, for a terminal."""
    rows: list[Sequence[str]] = [("", "TARGET", "FOUND", "VERDICT", "")]
    rows += [_row(target) for result in results for target in result.targets]
    lines = [_aligned(each) + "\n" for result in results for each in result.data.get("tables", ())]
    lines.append(_aligned(rows))
    skipped = [f"left out: {text}" for result in results for text in result.skipped]
    if any(result.quick for result in results):
        skipped.append("--quick was given: these figures show that it runs, no more")
    return "\n".join(["", *lines, *skipped])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def publish(folder: Path, page: Path = PAGE, reference: Path = REFERENCE, readme: Path = README) -> Path:
    """Make the results of a folder the reference ones and write them into the page and the README; return the page.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: they come from a quick run, or a page lacks its marks.
    """
    results = [load(folder / f"{name}.json") for name in ORDER if (folder / f"{name}.json").exists()]
    if not results:
        raise FileNotFoundError(f"{folder} holds no results; run: make bench")
    if any(result.quick for result in results):
        raise ValueError(f"{folder} holds results of a quick run, which are no reference")
    reference.mkdir(parents=True, exist_ok=True)
    for result in results:
        for suffix in (".json", ".svg"):
            source = folder / f"{result.name}{suffix}"
            if source.exists() and folder.resolve() != reference.resolve():
                shutil.copyfile(source, reference / source.name)
    for path, new, marks in (
        (page, section(results, page, reference), (BEGIN, END)),
        (readme, short_section(results), (SHORT_BEGIN, SHORT_END)),
    ):
        path.write_text(replace_section(path.read_text(encoding="utf-8"), new, *marks), "utf-8")
    return page


def replace_section(text: str, new: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with what stands between the marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"the page lacks one of its marks: {begin} and {end}")
    return f"{before}{begin}\n\n{new.strip()}\n\n{end}{after}"


def short_section(results: Sequence[Result]) -> str:
    """Return the Markdown for the README: what was found beside what was aimed at."""
    rows = ["| measured | target | found |", "|---|---|---|"]
    for result in results:
        for what, bound, found, verdict, _ in map(_row, result.targets):
            rows.append(f"| {what} | {bound} | {found}{', missed' if verdict == 'missed' else ''} |")
    return f"On {results[0].machine['cores']} cores, {_span(results)}:\n\n" + "\n".join(rows)


def section(results: Sequence[Result], page: Path, reference: Path) -> str:
    """Return the Markdown that shows the results: machine, table, plots."""
    in_time = sorted(results, key=lambda result: result.date)
    used = {name: version for result in in_time for name, version in result.versions.items()}
    parts = [
        f"Measured on {_span(results)}: {_machines(in_time)}.",
        "With " + ", ".join(f"{name} {version}" for name, version in used.items()) + ".",
    ]
    rows = ["| measured | target | found | verdict | behind it |", "|---|---|---|---|---|"]
    rows += ["| " + " | ".join(_row(target)) + " |" for result in results for target in result.targets]
    parts.append("\n".join(rows))
    parts += [f"Left out: {text}." for result in results for text in result.skipped]
    for result in results:
        parts += [_markdown(rows) for rows in result.data.get("tables", ())]
        plot = reference / f"{result.name}.svg"
        if plot.exists():
            link = Path(os.path.relpath(plot, page.parent)).as_posix()
            parts.append(f"![{result.name}]({link})")
    return "\n\n".join(parts)


def _machines(results: Sequence[Result]) -> str:
    """Return on what the results were measured; if that was not all on one machine, what on which."""
    names: dict[str, list[str]] = {}
    for result in results:
        found = result.machine
        memory = f"{found['memory_bytes'] / GIB:.0f} GiB"
        machine = f"{found['cpu']}, {found['cores']} cores, {memory}, {found['system']}, Python {found['python']}"
        names.setdefault(machine, []).append(result.name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{', '.join(measured)} on {machine}" for machine, measured in names.items())


def _span(results: Sequence[Result]) -> str:
    """Return the days of the results: one, or the first and the last."""
    days = sorted(result.date[:10] for result in results)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def _row(target: Target) -> tuple[str, str, str, str, str]:
    found = "-" if target.verdict == "not measured" else f"{target.figure:.3g} {target.unit}"
    bound = f"{target.sense} {target.bound:g} {target.unit}"
    return target.what, bound, found, target.verdict, target.detail
