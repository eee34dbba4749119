"""Why a process does not run, in the words of its own log."""

from __future__ import annotations

import json
import re
from typing import Final

from mlx_mesh_wire.guard_report import TEXT_MAX_CHARS

TAIL_BYTES: Final = 8192
"""Of the log; a traceback fits."""

_CONSOLE = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} error +(?P<event>\w+) ?(?P<fields>.*)$")
_REASON = re.compile(r"\breason=(?P<reason>.*?)(?: (?:traceback|hint|engine)=|$)")
_LINES_OF_OTHERS = re.compile(r"^(?:[\w.]*(?:Error|Exception)\b.*|.*: error: .*|mlx-mesh-\w+: .*)$")
"""What Python, argparse and our own programs say before there is a log."""


def reason_of(tail: str, exit_status: int, spawn_error: str) -> str:
    """Return why a process ended, from the end of its log, its exit status and what supervisord says.

    Args:
        tail: the last bytes of its log.
        exit_status: as supervisord tells it; 0 also when a signal ended the process.
        spawn_error: supervisord's own words, empty if it has none.
    """
    said = next((found for line in reversed(tail.splitlines()) if (found := _said(line))), "")
    status = f"exit status {exit_status}" if exit_status > 0 else ""
    parts = [part for part in (status, said or ("" if status else spawn_error)) if part]
    return ": ".join(parts)[:TEXT_MAX_CHARS] or "it ended, and its log does not say why"


def _said(line: str) -> str:
    if found := _CONSOLE.match(line):
        reason = _REASON.search(found["fields"])
        return f"{found['event']}: {reason['reason']}" if reason else found["event"]
    if line.startswith("{"):
        return _said_in_json(line)
    return line.strip() if _LINES_OF_OTHERS.match(line) else ""


def _said_in_json(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(entry, dict) or entry.get("level") != "error":
        return ""
    return ": ".join(str(entry[key]) for key in ("event", "reason") if entry.get(key))
