"""``mlx-mesh status``: workers, queues, memory and what the broker has done, as tables or JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser, add_timeout, seconds
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.memory import footprints, memory
from mlx_mesh.cli.merged import ALIVE, merge
from mlx_mesh.cli.output import EXIT_OK, count, note, say, told
from mlx_mesh.cli.table import duration, size, table
from mlx_mesh_wire import MeshError
from mlx_mesh_wire.host import host_name, process_start
from mlx_mesh_wire.messages import LANE_NAMES
from mlx_mesh_wire.paths import run_dir
from mlx_mesh_wire.supervisor import Supervisor, SupervisorError, never_started

if TYPE_CHECKING:
    import argparse

MORE = """\
columns:
  MODELS   those in brackets are loaded when a request names them, the others are in memory
  STATE    loading, ready, draining; suspect: not heard of for a while; stalled: held work does not get on;
           while its process does not run, what supervisord says: stopping, stopped, exited, backoff (it ended at once
           and is tried again), fatal (given up); starting: its process runs, the broker has not heard of it yet;
           gone: its process is not there, the broker is about to notice
  BUSY     requests that the worker holds / its slots
  SERVED   requests that it has answered
  HEARD    how long ago its last sign of life came
  AGAIN    requests whose worker was lost, which wait for another
  FOOT     what its process takes, as the guard measures it; shown where that is not MEMORY, which it says itself
  GROWTH   what that grows by; "leak" if the guard takes it for one
  SHARE    of a limit of memory that is taken; the highest one decides what the guard does

ENGINE tells what the engines have counted since they were loaded, and what key-value caches of texts (KV) and of
beginnings that are kept for other texts (PREFIXES) take.

A process that supervisord could not keep running is listed with the reason, and when the guard tries it again."""

CACHES = {"kv": "KV", "prefix_cache": "PREFIXES"}
"""Kinds of memory that are shown beside the counters, and their columns."""

BATCHING, BATCHED = "batching ", "continuous"
"""The engine ``generate`` says so of each model in memory; only another answer is worth a line."""

SUPERVISORD_LOST = "supervisord does not answer: what ends is not started again, and memory is not watched"

WATCH_MIN_S = 0.1
CLEAR_SCREEN = "\x1b[H\x1b[2J"


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``status``."""
    parser = add_parser(
        commands,
        "status",
        summary="show workers and queues",
        about="Show the workers, what waits in the queues, and what the broker has answered.",
        more=MORE,
    )
    parser.add_argument("--json", action="store_true", help="all figures as one JSON object, for scripts")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=2.0,
        metavar="SECONDS",
        help="show it again and again, every 2 s or as told, until Ctrl-C",
    )
    add_timeout(parser, 5.0, "how long to wait for the broker")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the status once, or until interrupted."""
    from mlx_mesh import Mesh

    require_broker()
    with Mesh() as mesh:
        before: dict[str, Any] | None = None
        while True:
            try:
                found = gather(mesh.status(timeout=args.timeout), Supervisor(run_dir()))
            except MeshError as error:
                if not args.watch:
                    raise
                note(f"mlx-mesh: {told(error)}")  # a mesh that starts again is what one watches
            else:
                _show(found, before, args)
                before = found
            if not args.watch:
                return EXIT_OK
            time.sleep(max(args.watch, WATCH_MIN_S))


def gather(status: dict[str, Any], supervisor: Supervisor) -> dict[str, Any]:
    """Return the broker's status with ``processes`` of supervisord, and ``workers`` as both see them."""
    try:
        processes, lost = supervisor.look(), False
    except SupervisorError as error:
        # It leaves its socket behind when it is killed; a mesh that never had one has none.
        processes, lost = [], error.unreachable and supervisor.socket.exists()
    rows = merge(status["workers"], processes, host=host_name(), alive=lambda pid: process_start(pid) != 0)
    return {**status, "workers": rows, "processes": processes, "supervisord_lost": lost}


def _show(found: dict[str, Any], before: dict[str, Any] | None, args: argparse.Namespace) -> None:
    text = json.dumps(found) if args.json else render(found, before)
    if args.watch and not args.json:
        text = CLEAR_SCREEN + text if sys.stdout.isatty() else text + "\n"
    say(text)
    sys.stdout.flush()


def render(status: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """Return what ``gather`` returned, for people; with an earlier one of the same epoch also the rate since then."""
    parts = (
        _broker(status, before),
        _workers(status),
        _engines(status["workers"]),
        _queues(status["queues"]),
        memory(status),
        SUPERVISORD_LOST if status.get("supervisord_lost") else "",
        _troubled(status),
    )
    return "\n\n".join(filter(None, parts))


def _broker(status: dict[str, Any], before: dict[str, Any] | None) -> str:
    counters = status["counters"]
    line = (
        f"broker {status['epoch']}, up {duration(status['uptime_s'])}, {count(status['clients'], 'client')}, "
        f"{counters['answered']:,} answered, {counters['outstanding']:,} outstanding"
    )
    if before and before["epoch"] == status["epoch"]:
        elapsed = status["uptime_s"] - before["uptime_s"]
        answered = counters["answered"] - before["counters"]["answered"]
        line += f", {answered / elapsed if elapsed > 0 else 0:,.1f} requests/s"
    return line


def _workers(status: dict[str, Any]) -> str:
    workers = status["workers"]
    if not workers:
        return "no workers"
    rows = [
        (
            worker["name"],
            _state(worker),
            worker["pid"] or "-",
            ",".join(worker["ops"]) or "-",
            _models(worker),
            f"{worker['in_flight']}/{worker['slots']}" if worker["slots"] else "-",
            f"{worker['served']:,}",
            size(worker["memory"]["rss"]) if "rss" in worker["memory"] else "-",
            _since(worker["heard_s"]),
            _since(worker["uptime_s"]),
        )
        for worker in workers
    ]
    header = ["WORKER", "STATE", "PID", "OPS", "MODELS", "BUSY", "SERVED", "MEMORY", "HEARD", "UP"]
    more = footprints(status)
    full = [(*row, *(cells[i] for cells in more.values())) for i, row in enumerate(rows)]
    return table([*header, *more], full, right="PID BUSY SERVED MEMORY HEARD UP FOOT GROWTH")


def _state(worker: dict[str, Any]) -> str:
    """Return the state of a worker, and who had it drained if that was not an operator."""
    by = worker.get("drained_by", "")
    return f"draining ({by})" if worker["state"] == "draining" and by not in {"", "operator"} else worker["state"]


def _since(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _models(worker: dict[str, Any]) -> str:
    """Return the models of a worker; those that are not in memory in brackets, unless it has not said yet."""
    if not worker["ops"]:
        return "-"
    names, warm = _without_aliases(worker["models"]), set(worker["warm"])
    return ",".join(name if name in warm or not warm else f"({name})" for name in names) or "any"


def _without_aliases(models: list[str]) -> list[str]:
    """Return the models without the short names of those that are listed as ``organisation/name`` too."""
    return [name for name in models if not any(other.endswith("/" + name) for other in models)]


def _engines(workers: list[dict[str, Any]]) -> str:
    """Return what engines have counted, their caches, and which models work in another way than usual."""
    counted = [worker for worker in workers if worker["counters"] or CACHES.keys() & worker["memory"].keys()]
    names = sorted({name for worker in counted for name, value in worker["counters"].items() if value})
    caches = [kind for kind in CACHES if any(kind in worker["memory"] for worker in counted)]
    rows = [
        (
            worker["name"],
            *(f"{worker['counters'].get(name, 0):,}" for name in names),
            *(size(worker["memory"].get(kind, 0)) for kind in caches),
        )
        for worker in counted
    ]
    header = ("ENGINE", *map(str.upper, names), *(CACHES[kind] for kind in caches))
    parts = [table(header, rows, right=" ".join(header[1:]))] if rows and header[1:] else []
    for worker in workers:
        for about, how in sorted(worker["versions"].items()):
            if about.startswith(BATCHING) and how != BATCHED:
                parts.append(f"{worker['name']} does {about.removeprefix(BATCHING)} {how}")
    return "\n".join(parts)


def _queues(queues: list[dict[str, Any]]) -> str:
    rows = [
        (
            queue["op"],
            queue["model"] or "default",
            queue["workers"],
            *(f"{queue['waiting'][lane]:,}" for lane in LANE_NAMES),
            f"{queue['waiting']['again']:,}",
            size(queue["bytes"]),
        )
        for queue in queues
    ]
    header = ("QUEUE", "MODEL", "WORKERS", "INTERACTIVE", "STANDARD", "BULK", "AGAIN", "BYTES")
    return table(header, rows, right="WORKERS INTERACTIVE STANDARD BULK AGAIN BYTES") if rows else ""


def _troubled(status: dict[str, Any]) -> str:
    """Return the processes that supervisord does not have running, with what it says of them."""
    told = {troubled["name"] for troubled in (status.get("guard") or {}).get("troubled", ())}
    rows = [
        (process["name"], process["statename"], _reason(process))
        for process in status["processes"]
        if process["statename"] not in ALIVE and not never_started(process) and process["name"] not in told
    ]
    return table(("PROCESS", "STATE", "REASON"), rows) if rows else ""


def _reason(process: dict[str, Any]) -> str:
    exited = f"exit status {process['exitstatus']}, " if process["statename"] == "EXITED" else ""
    return process["spawnerr"] or exited + process["description"] or "-"
