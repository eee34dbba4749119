"""Plain text for people: tables, sizes and times."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KIB = 1024


def table(header: Sequence[str], rows: Sequence[Sequence[object]], right: str = "") -> str:
    """Return aligned columns under a header; ``right`` names the columns to align right, separated by blanks."""
    lines = [list(header), *([plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    to_right = [name in right.split() for name in header]

    def render(line: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(line, widths, to_right, strict=True)
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(render, lines))


def plain(text: str) -> str:
    """Return a text with blanks for what a terminal would obey: names and reasons come from logs and other hosts."""
    return "".join(each if each.isprintable() else " " for each in text)


def size(number: float) -> str:
    """Return a number of bytes as ``312 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < KIB:
            return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"  # noqa: PLR2004
        number /= KIB
    return f"{number:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time span as ``0.4 s``, ``3 min 20 s``, ``5 h 12 min`` or ``3 d 4 h``."""
    if seconds < 10:  # noqa: PLR2004
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for limit, big, small, unit in ((60, 1, 0, "s"), (3600, 60, 1, "min s"), (86400, 3600, 60, "h min")):
        if whole < limit:
            names = unit.split()
            first = f"{whole // big} {names[0]}"
            return f"{first} {whole % big // small} {names[1]}" if small else first
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def milliseconds(seconds: float) -> str:
    """Return a latency as ``0.42 ms`` or ``182 ms``."""
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"  # noqa: PLR2004


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of the sorted values lie; 0 for none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
