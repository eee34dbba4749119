"""The part of ``mlx-mesh status`` that tells what the guard says: memory, and what is being done about it."""

from __future__ import annotations

from typing import Any

from mlx_mesh.cli.merged import ALIVE
from mlx_mesh.cli.output import count
from mlx_mesh.cli.table import duration, plain, size, table

RECENT_MAX = 5
"""Of the last actions."""

NOTABLE = 1.1
"""A footprint that differs by less than that from what the worker says itself is not worth a column."""

AT_REST = {"psi_some": 1.0, "psi_full": 1.0, "level": 1.0}
"""Up to there a signal of the operating system is not worth a word; others up to 0. The first two are percentages."""

IN_BYTES = "swap_used"

NEW_S = 10.0
"""Until a broker is that old its guard may not have found it yet; as long as a report counts without a new one."""


def memory(status: dict[str, Any]) -> str:
    """Return the guard's report for people; empty without a guard, a line if there is one that does not report.

    The broker remembers what a guard said for some seconds after its end. That is told as such.
    """
    report = status.get("guard")
    guard = next((process for process in status["processes"] if process["guard"]), None)
    if report is None:
        return _silent(guard, status["uptime_s"]) if guard else ""
    parts = (
        _gone(guard) if guard and guard["statename"] not in ALIVE else "",
        _pressure(report),
        _limits(report),
        _recycles(report),
        _given_up(report),
        _recent(report),
    )
    return "\n".join(filter(None, parts))


def footprints(status: dict[str, Any]) -> dict[str, list[str]]:
    """Return the columns FOOT and GROWTH of the table of workers, where they tell more than the others do."""
    found = {each["name"]: each for each in (status.get("guard") or {}).get("workers", ())}
    rows = [(worker, found.get(worker["name"])) for worker in status["workers"]]
    columns = {}
    if any(each and (each["leaking"] or _differs(each["bytes"], worker["memory"].get("rss"))) for worker, each in rows):
        columns["FOOT"] = [size(each["bytes"]) if each else "-" for _, each in rows]
    if any(each and each["leaking"] for _, each in rows):
        columns["GROWTH"] = [_growth(each) if each else "-" for _, each in rows]
    return columns


def _differs(footprint: int, rss: int | None) -> bool:
    return rss is not None and not rss / NOTABLE <= footprint <= rss * NOTABLE


def _growth(footprint: dict[str, Any]) -> str:
    slope = footprint["slope"]
    return f"{size(max(slope, 0))}/s" + (" leak" if footprint["leaking"] else "")


def _gone(guard: dict[str, Any]) -> str:
    return f"memory is not watched: {guard['name']} is {guard['statename']}; what it said last:"


def _silent(guard: dict[str, Any], broker_s: float) -> str:
    """Return that there is no report of a guard, for one that runs only if the broker is older than that takes."""
    if guard["statename"] in ALIVE and broker_s < NEW_S:
        return f"memory is not watched yet: {guard['name']} is {guard['statename']}, the broker has just started"
    return f"memory is not watched: {guard['name']} is {guard['statename']} and does not report; see its log"


def _pressure(report: dict[str, Any]) -> str:
    told = [f"memory {report['pressure']:.0%}, {report['rung']}"]
    if report["paused"]:
        lanes = "bulk" if report["paused"] == "bulk" else f"{report['paused']} and bulk"
        told.append(f"{lanes} paused for {duration(report['paused_s'])}")
    told += [text for name, value in sorted(report["signals"].items()) if (text := _signal(name, value))]
    told += [
        f"{source} could not be read {count(times, 'time')}"
        for source, times in sorted(report["errors"].items())
        if times
    ]
    return plain(", ".join(told))


def _signal(name: str, value: float) -> str:
    """Return what the operating system says, unless it is at rest."""
    if value <= AT_REST.get(name, 0.0):
        return ""
    return f"{name} {size(value) if name == IN_BYTES else f'{value:g}'}"


def _limits(report: dict[str, Any]) -> str:
    rows = [
        (limit["source"], size(limit["used"]), size(limit["limit"]), f"{share(limit):.0%}")
        for limit in sorted(report["limits"], key=share, reverse=True)
    ]
    return table(("LIMIT", "USED", "OF", "SHARE"), rows, right="USED OF SHARE") if rows else ""


def share(limit: dict[str, Any]) -> float:
    """Return how much of a limit is taken, 1 for all."""
    return limit["used"] / limit["limit"] if limit["limit"] else 1.0


def _recycles(report: dict[str, Any]) -> str:
    rows = [(each["name"], each["phase"], duration(each["since_s"]), each["reason"]) for each in report["recycles"]]
    return table(("RECYCLE", "PHASE", "SINCE", "REASON"), rows, right="SINCE") if rows else ""


def _given_up(report: dict[str, Any]) -> str:
    rows = [
        (
            each["name"],
            each["state"],
            duration(each["since_s"]),
            f"in {duration(each['retry_s'])}" if each["retry_s"] >= 0 else "not",
            each["reason"],
        )
        for each in report["troubled"]
    ]
    return table(("GIVEN UP", "STATE", "SINCE", "AGAIN", "REASON"), rows, right="SINCE AGAIN") if rows else ""


def _recent(report: dict[str, Any]) -> str:
    return "\n".join(f"guard: {plain(action)}" for action in report["recent"][-RECENT_MAX:])
