"""One truth about workers: what supervisord says of their processes and the broker of their work, joined by pid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire.supervisor import full_name, never_started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ALIVE = frozenset({"RUNNING", "STARTING"})
"""What supervisord says of a process that is there to stay; of others its word is the last."""

STARTING = "starting"
GONE = "gone"

UNKNOWN_TO_THE_BROKER: dict[str, Any] = {
    "ops": [],
    "models": [],
    "warm": [],
    "slots": 0,
    "in_flight": 0,
    "served": 0,
    "memory": {},
    "counters": {},
    "versions": {},
    "uptime_s": None,
    "heard_s": None,
    "progress": 0,
    "remote": False,
    "drained_by": "",
}
"""The fields of a worker that has not joined."""


def merge(
    workers: Sequence[dict[str, Any]],
    processes: Iterable[dict[str, Any]],
    *,
    host: str,
    alive: Callable[[int], bool],
) -> list[dict[str, Any]]:
    """Return a row for every worker process of supervisord and every worker of the broker.

    A row is the broker's map of the worker, or as many fields without a value, and ``process``: ``group:name`` and
    supervisord's ``statename``, or None for a worker that is not under it.

    Args:
        workers: as the broker tells them.
        processes: as ``Supervisor.look`` returns them.
        host: name of this machine; pids of others mean nothing here.
        alive: whether a process of this machine exists.
    """
    by_pid = {worker["pid"]: worker for worker in workers if is_here(worker, host)}
    rows = []
    for process in processes:
        if process["worker"] and not never_started(process):
            worker = by_pid.pop(process["pid"], None)
            rows.append(_row(process, worker))
    for worker in workers:
        if not is_here(worker, host):
            rows.append({**worker, "process": None})
        elif worker["pid"] in by_pid:
            # Its end has not got through to the broker yet, or it was started by hand.
            state = worker["state"] if alive(worker["pid"]) else GONE
            rows.append({**worker, "state": state, "process": None})
    return sorted(rows, key=lambda row: by_number(row["name"]))


def is_here(worker: dict[str, Any], host: str) -> bool:
    """Whether the pid of a worker is one of this machine."""
    return not worker["remote"] and worker["host"] == host


def state_of(process: dict[str, Any], worker: dict[str, Any] | None) -> str:
    """Return the state of a worker process; ``worker`` is what the broker says of its pid, None if nothing."""
    if process["statename"] not in ALIVE:
        return str(process["statename"]).lower()
    return STARTING if worker is None else str(worker["state"])


def by_number(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``embed-10`` behind ``embed-9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _row(process: dict[str, Any], worker: dict[str, Any] | None) -> dict[str, Any]:
    known = worker or {**UNKNOWN_TO_THE_BROKER, "name": process["name"], "pid": process["pid"], "host": ""}
    under = {"name": full_name(process), "statename": process["statename"]}
    return {**known, "state": state_of(process, worker), "process": under}
