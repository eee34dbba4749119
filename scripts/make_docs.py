"""Writes the parts of the documentation that are made from code: the life of a worker, and the tables of settings.

Usage: python scripts/make_docs.py [--check]

Such a part stands between two comments in a page of ``docs/``, ``<!-- made from code: NAME -->`` and ``<!-- end -->``.
With ``--check`` nothing is written; the exit status is 1 if a page is out of date.
"""

# ruff: noqa: INP001  a script, not a package

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.lifecycle import TRANSITIONS, Turn, WorkerState
from mlx_mesh_broker.settings import BrokerSettings
from mlx_mesh_wire.settings import kinds
from mlx_mesh_worker.engines.generate.settings import GenerateSettings
from mlx_mesh_worker.guard.settings import GuardSettings
from mlx_mesh_worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parent.parent / "docs"
SECTION = re.compile(r"(<!-- made from code: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
KINDS = {int: "integer", float: "number", bool: "true or false", str: "string"}


def life_of_a_worker() -> str:
    """Return the life cycle as a Mermaid diagram; turns that all living states share are drawn once."""
    living = [state for state in WorkerState if TRANSITIONS[state]]
    shared = {
        turn: target
        for turn, target in TRANSITIONS[living[0]].items()
        if target not in living and all(TRANSITIONS[state].get(turn) is target for state in living)
    }
    lines = ["stateDiagram-v2", "    state connected {", f"        [*] --> {WorkerState.LOADING}"]
    for state in living:
        edges = {turn: target for turn, target in TRANSITIONS[state].items() if turn not in shared}
        lines += ["        " + edge for edge in _edges(state, edges)]
    lines += ["    }", *("    " + edge for edge in _edges("connected", shared))]
    lines += [f"    {state} --> [*]" for state in WorkerState if state not in living]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def _edges(source: str, turns: dict[Turn, WorkerState]) -> list[str]:
    """Return one arrow for each target, labelled with all turns that lead there; none from a state to itself."""
    labels: dict[WorkerState, list[str]] = {}
    for turn, target in turns.items():
        if target != source:
            labels.setdefault(target, []).append(turn)
    return [f"{source} --> {target}: {', '.join(names)}" for target, names in labels.items()]


def table_of_settings(cls: type[Any]) -> str:
    """Return the settings of a section with their kind, bounds, default and meaning."""
    hints = kinds(cls)
    rows = ["| setting | allowed | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        allowed = _allowed(hints[field.name], **field.metadata)
        rows.append(f"| `{field.name}` | {allowed} | {_default(field.default)} | {field.metadata['help']} |")
    return "\n".join(rows) + "\n"


def _allowed(
    kind: Any, *, low: float | None, high: float | None, choices: tuple[str, ...], words: tuple[str, ...], **_: Any
) -> str:
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if words:
        return ", ".join([*(f"`{word}`" for word in words), _allowed(kind, low=low, high=high, choices=(), words=())])
    name = KINDS.get(kind, "list of strings")
    if low is None:
        return name
    return f"{name}, {low} to {high}" if high is not None else f"{name}, at least {low}"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if value not in ("", ()) else "empty"


PARTS: dict[str, Callable[[], str]] = {
    "life of a worker": life_of_a_worker,
    "broker settings": lambda: table_of_settings(BrokerSettings),
    "worker settings": lambda: table_of_settings(WorkerSettings),
    "generate settings": lambda: table_of_settings(GenerateSettings),
    "guard settings": lambda: table_of_settings(GuardSettings),
}


def renewed(text: str) -> str:
    """Return a page with its made parts as the code has them now. Raises KeyError for a part of unknown name."""
    return SECTION.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}", text)


def main() -> int:
    """Renew all pages, or with ``--check`` name those that are out of date."""
    stale = {path: new for path in sorted(DOCS.glob("*.md")) if (new := renewed(old := path.read_text())) != old}
    for path, text in stale.items():
        if "--check" in sys.argv:
            sys.stderr.write(f"{path} is out of date; run: python scripts/make_docs.py\n")
        else:
            path.write_text(text)
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
