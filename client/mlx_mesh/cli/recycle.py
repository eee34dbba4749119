"""``mlx-mesh recycle``: start workers anew, one after the other, so that callers do not notice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser, add_timeout, seconds
from mlx_mesh.cli.arriving import LOOK_EVERY_S, READY, broker_status, local_workers, wait_until_serving
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.merged import ALIVE, by_number
from mlx_mesh.cli.output import EXIT_OK, CommandError, count, fail, note, say
from mlx_mesh.cli.up import READY_WITHIN_S
from mlx_mesh_wire.control import command
from mlx_mesh_wire.host import host_name
from mlx_mesh_wire.paths import run_dir
from mlx_mesh_wire.supervisor import Supervisor, full_name, never_started

if TYPE_CHECKING:
    import argparse

DRAIN_S = 30.0
"""As long as a worker drains that is told to stop."""

MORE = """\
Each worker in turn gets nothing new, finishes what it holds, is started again by supervisord, and has to be ready
before it is the next one's turn. What it still holds when the time to drain is over is handed back and done by another
worker; a text goes on where it was.

examples:
  mlx-mesh recycle --all               after an upgrade: every worker runs the new code, no call fails
  mlx-mesh recycle embed-0 embed-1     these two
  mlx-mesh recycle embed-0 --hurry     do not wait for what it holds, have another worker do it"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``recycle``."""
    parser = add_parser(
        commands,
        "recycle",
        summary="start workers anew, one by one",
        about="Start workers anew, one after the other, without a call that fails.",
        more=MORE,
    )
    parser.add_argument("worker", nargs="*", metavar="WORKER", help="their names, as in: mlx-mesh status")
    parser.add_argument("--all", action="store_true", help="every worker that supervisord runs")
    parser.add_argument("--hurry", action="store_true", help="have each hand back what it holds and leave at once")
    parser.add_argument(
        "--drain",
        type=seconds,
        default=DRAIN_S,
        metavar="SECONDS",
        help="how long each may finish what it holds (default: %(default)g s)",
    )
    add_timeout(parser, READY_WITHIN_S, "how long each may take to be ready again")
    parser.set_defaults(run=run, usage=parser.error)


def run(args: argparse.Namespace) -> int:
    """Recycle the workers that are named, or all."""
    if bool(args.worker) == args.all:
        args.usage("name the workers, or say --all")
    require_broker(control=True)
    supervisor = Supervisor(run_dir())
    processes = [process for process in supervisor.look() if process["worker"] and not never_started(process)]
    processes.sort(key=lambda process: by_number(process["name"]))
    if args.all:
        chosen = [process for process in processes if process["statename"] in ALIVE]
    else:
        chosen = [_find(processes, name) for name in dict.fromkeys(args.worker)]
    if not chosen:
        fail("supervisord runs no workers; see what there is with: mlx-mesh status")
    for process in chosen:
        _recycle(supervisor, process, args)
    say(f"{count(len(chosen), 'worker')} recycled: {', '.join(process['name'] for process in chosen)}")
    return EXIT_OK


def _find(processes: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = [process for process in processes if name in {process["name"], full_name(process)}]
    if len(found) > 1:
        fail(f"there are several workers {name!r}; name one of: {', '.join(map(full_name, found))}")
    if found:
        if found[0]["statename"] not in ALIVE:
            state = f"{name} is {found[0]['statename']}"
            fail(f"{state}; start it with: supervisorctl start {full_name(found[0])}")
        return found[0]
    for worker in command("status", {})["workers"]:
        if worker["name"] == name:
            elsewhere = worker["remote"] or worker["host"] != host_name()
            how = f"runs on {worker['host']}" if elsewhere else "was started by hand"
            fail(f"{name} {how}, not under the supervisord of {run_dir()}; recycle it where it was started")
    known = ", ".join(process["name"] for process in processes) or "none"
    raise CommandError(f"there is no worker {name!r}; workers are: {known}")


def _recycle(supervisor: Supervisor, process: dict[str, Any], args: argparse.Namespace) -> None:
    """Have one worker finish, start it again, and wait until it is ready."""
    name, pid = process["name"], process["pid"]
    status = command("status", {})
    _warn_if_last(pid, status["workers"])
    known = None if args.hurry else local_workers(status).get(pid)
    try:
        left = _drain(known, args.drain) if known else 0
        if left:
            note(f"  {name}: still holds {count(left, 'job')} after {args.drain:g} s; another worker goes on with that")
        supervisor.restart(full_name(process), hurry=bool(args.hurry or left))
    except BaseException:
        if known:
            _tell(known, on=False)
        raise
    wait_until_serving(supervisor, full_name(process), args.timeout, old_pid=pid)


def _warn_if_last(pid: int, workers: list[dict[str, Any]]) -> None:
    (own,) = [worker for worker in workers if worker["pid"] == pid][:1] or [{"ops": ()}]
    others = {op for worker in workers if worker["pid"] != pid and worker["state"] == READY for op in worker["ops"]}
    if alone := ", ".join(op for op in own["ops"] if op not in others):
        note(f"  {own['name']}: no other worker is ready for {alone}; requests wait until it is back")


def _drain(worker: dict[str, Any], longest: float) -> int:
    """Let a worker finish; return how many jobs it holds still."""
    _tell(worker, on=True)
    deadline = time.monotonic() + longest
    while held := local_workers(broker_status()).get(worker["pid"], {"in_flight": 0})["in_flight"]:
        if time.monotonic() > deadline:
            return int(held)
        time.sleep(LOOK_EVERY_S)
    return 0


def _tell(worker: dict[str, Any], *, on: bool) -> None:
    """Have a worker drain, or serve again. By its pid too: one elsewhere of the same name would drain for ever."""
    command("drain", {"name": worker["name"], "on": on, "pid": worker["pid"]})
