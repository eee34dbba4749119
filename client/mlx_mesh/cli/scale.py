"""``mlx-mesh scale``: change the number of workers of a group while the mesh runs, within memory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser, add_timeout
from mlx_mesh.cli.arriving import wait_until_gone, wait_until_serving
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.merged import ALIVE, by_number
from mlx_mesh.cli.output import EXIT_OK, CommandError, count, fail, note, say
from mlx_mesh.cli.room import refusal
from mlx_mesh.cli.up import READY_WITHIN_S
from mlx_mesh_wire.control import command
from mlx_mesh_wire.paths import run_dir
from mlx_mesh_wire.supervisor import Supervisor, full_name

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKERS_MAX = 256
"""Of one program: far above the cores of a machine."""

MORE = """\
New workers are as supervisord.conf describes those of the group; the highest number leaves first, after it has
finished. It holds until supervisord is started again or the group is updated; to keep it, set numprocs in
supervisord.conf.

examples:
  mlx-mesh scale workers 4             four workers in the group "workers"
  mlx-mesh scale workers:embed 4       where the group has several programs
  mlx-mesh scale generate 2 --force    whatever the guard says of memory"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``scale``."""
    parser = add_parser(
        commands,
        "scale",
        summary="change the number of workers",
        about="Change the number of workers of a group, one at a time, as far as memory allows.",
        more=MORE,
    )
    parser.add_argument("group", metavar="GROUP[:PROGRAM]", help="of supervisord.conf, as supervisorctl shows it")
    parser.add_argument("number", type=_number, metavar="N", help="of workers")
    parser.add_argument("--force", action="store_true", help="also where memory would get short")
    add_timeout(parser, READY_WITHIN_S, "how long each may take to be ready, or to leave")
    parser.set_defaults(run=run)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= WORKERS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: an integer from 1 to {WORKERS_MAX}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Scale a group up or down."""
    require_broker(control=True)
    supervisor = Supervisor(run_dir())
    row = _find(supervisor.groups(), args.group)
    members = _members(supervisor, row)
    up = args.number - sum(member["statename"] in ALIVE for member in members)
    if up > 0 and not args.force:
        _check_memory(members, up, args)
    for member in members[args.number :][::-1]:
        supervisor.remove(full_name(member))
        wait_until_gone(supervisor, full_name(member), args.timeout)
    for member in members[: args.number]:
        if member["statename"] not in ALIVE:
            supervisor.restart(full_name(member))  # supervisord itself does not start what is in BACKOFF
            wait_until_serving(supervisor, full_name(member), args.timeout)
    for _ in range(args.number - len(members)):
        _add(supervisor, row, args.timeout)
    names = ", ".join(member["name"] for member in _members(supervisor, row))
    say(f"{args.group} has {count(args.number, 'worker')}: {names}")
    return EXIT_OK


def _find(rows: Sequence[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """Return the program of a group that is meant by ``group`` or ``group:program``."""
    group, _, program = wanted.partition(":")
    workers = [row for row in rows if row["worker"]]
    found = [row for row in workers if row["group"] == group and program in {"", row["program"]}]
    if len(found) == 1:
        return found[0]
    if found:
        fail(f"{group} has several programs; name one of: {', '.join(_name(row, found) for row in found)}")
    if any(row["group"] == group for row in rows) and not any(row["group"] == group for row in workers):
        fail(f"{group} is no group of workers; those are: {_known(workers)}")
    raise CommandError(f"there is no group {wanted!r}; groups of workers are: {_known(workers)}")


def _known(workers: Sequence[dict[str, Any]]) -> str:
    return ", ".join(_name(row, workers) for row in workers) or "none"


def _name(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    alone = sum(other["group"] == row["group"] for other in rows) == 1
    return str(row["group"] if alone else f"{row['group']}:{row['program']}")


def _members(supervisor: Supervisor, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the processes of a program by their numbers, without those that leave or are there for a while only."""
    found = [
        process
        for process in supervisor.look()
        if (process["group"], process["program"]) == (row["group"], row["program"])
        and not (process["stand_in"] or process["removing"])
    ]
    return sorted(found, key=lambda process: by_number(process["name"]))


def _check_memory(members: Sequence[dict[str, Any]], added: int, args: argparse.Namespace) -> None:
    report = command("status", {}).get("guard")
    if report is None:
        note("  memory was not checked: no guard reports")
        return
    names = {member["name"] for member in members}
    sizes = [worker["bytes"] for worker in report["workers"] if worker["name"] in names]
    if not sizes:
        note(f"  memory was not checked: the guard has measured no worker of {args.group} yet")
        return
    if why := refusal(report["limits"], max(sizes), added):
        fits = args.number - added + why.room
        instead = f"mlx-mesh scale {args.group} {fits}, or " if fits >= 1 and why.room else ""
        fail(f"{why.text}; use {instead}--force")


def _add(supervisor: Supervisor, row: dict[str, Any], timeout: float) -> None:
    """Add one worker and wait until it serves; one that does not is taken out again."""
    name = supervisor.add(row["group"], row["program"])
    try:
        wait_until_serving(supervisor, name, timeout)
    except CommandError:
        supervisor.remove(name)
        raise
