"""The plots. Without matplotlib there are none, and everything else works."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.progress import progress

OURS = "#1b6ca8"
THEIRS = "#b8bec6"


def bars(path: Path, title: str, panels: Mapping[str, Mapping[str, float]]) -> None:
    """Draw one panel of horizontal bars for each figure; what is called mesh... stands out."""
    with _figure(path, title, len(panels)) as axes:
        for axis, (name, values) in zip(axes, panels.items(), strict=True):
            shown = {key: value for key, value in values.items() if not math.isnan(value)}
            colours = [OURS if key.startswith("mesh") else THEIRS for key in shown]
            drawn = axis.barh(list(shown), list(shown.values()), color=colours)
            axis.bar_label(drawn, fmt=_short, padding=3, fontsize=8)
            axis.set_title(name, fontsize=9)
            axis.invert_yaxis()
            axis.margins(x=0.18)


def stacked(path: Path, title: str, rows: Mapping[str, Mapping[str, float]], unit: str) -> None:
    """Draw one bar for each row, made of named parts."""
    with _figure(path, title, 1) as (axis,):
        parts = list(dict.fromkeys(part for row in rows.values() for part in row))
        left = [0.0] * len(rows)
        for part in parts:
            widths = [row.get(part, 0.0) for row in rows.values()]
            axis.barh(list(rows), widths, left=left, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for row, total in enumerate(left):
            axis.text(total, row, f" {_short(total)}", va="center", fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set_xlabel(unit)
        axis.legend(fontsize=8, ncols=3)


def lines(path: Path, title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], unit: str) -> None:
    """Draw one panel of lines over a logarithmic axis for each quantity that was varied."""
    with _figure(path, title, len(panels)) as axes:
        for axis, (name, series) in zip(axes, panels.items(), strict=True):
            for label, points in series.items():
                axis.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
            axis.set(xscale="log", xlabel=name, ylabel=unit)
            axis.set_ylim(bottom=0)
            axis.legend(fontsize=8)


class Panel(NamedTuple):
    """One panel of :func:`curves`: named lines of points, and what its axes are."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    marks: bool = True


def curves(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Draw panels of lines, each with axes of its own; logarithmic ones of the same ``y`` have the same range."""
    with _figure(path, title, len(panels)) as axes:
        for axis, panel in zip(axes, panels, strict=True):
            for label, points in panel.series.items():
                x, y = [x for x, _ in points], [y for _, y in points]
                axis.plot(x, y, marker="o" if panel.marks else "", label=label)
            axis.set_title(panel.title, fontsize=9)
            axis.set(xlabel=panel.x, ylabel=panel.y)
            if panel.log_x:
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter("{x:g}")
            if panel.log_y:
                axis.set_yscale("log")
                axis.set_ylim(*_range(panels, panel.y))
            else:
                axis.set_ylim(bottom=0)
            axis.legend(fontsize=8)


def _range(panels: Sequence[Panel], y: str) -> tuple[float, float]:
    every = [value for panel in panels if panel.y == y for points in panel.series.values() for _, value in points]
    shown = [value for value in every if value > 0]
    return (min(shown) / 1.5, max(shown) * 1.5) if shown else (0.1, 1.0)


@contextmanager
def _figure(path: Path, title: str, panels: int) -> Iterator[Any]:
    try:
        import matplotlib as mpl
    except ImportError:
        progress(f"{path.name} is not drawn: matplotlib is not installed (scripts/setup peers)")
        yield [_Nothing()] * panels
        return
    mpl.use("svg")
    # Without these, two runs with the same figures would give different files.
    mpl.rcParams["svg.hashsalt"] = "mlx-mesh"
    import matplotlib.pyplot as plt

    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    figure.suptitle(title)
    yield axes.flatten()[:panels]
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


class _Nothing:
    """Takes any drawing and does none."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> None:
        return None


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
