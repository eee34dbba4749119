"""``mlx-mesh drain``: let a worker finish what it holds and give it nothing new; ``--undo`` puts it back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser, add_timeout
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.output import EXIT_OK, CommandError, count, fail, say
from mlx_mesh_wire.control import command
from mlx_mesh_wire.paths import control_endpoint, ipc_endpoint

if TYPE_CHECKING:
    import argparse

ASK_EVERY_S = 0.1
MORE = """\
examples:
  mlx-mesh drain embed-0               returns when embed-0 holds nothing
  mlx-mesh drain embed-0 --undo        it gets work again"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``drain``."""
    parser = add_parser(
        commands,
        "drain",
        summary="let a worker finish, give it nothing new",
        about="Let a worker finish what it holds and give it nothing new, until it is put back or starts again.",
        more=MORE,
    )
    parser.add_argument("worker", metavar="WORKER", help="its name, as in: mlx-mesh status")
    parser.add_argument("--undo", action="store_true", help="give it work again")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it holds nothing")
    add_timeout(parser, 60.0, "how long to wait for that")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Drain a worker, or take that back."""
    if control_endpoint() == ipc_endpoint("control"):
        require_broker(control=True)
    _worker(args.worker)
    command("drain", {"name": args.worker, "on": not args.undo}, endpoint=control_endpoint())
    if args.undo:
        say(f"{args.worker} serves again")
    elif args.no_wait:
        say(f"{args.worker} gets nothing new")
    else:
        _wait(args.worker, args.timeout)
    return EXIT_OK


def _wait(name: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while held := _worker(name)["in_flight"]:
        if time.monotonic() > deadline:
            fail(f"{name} still holds {count(held, 'job')} after {timeout:g} s; it goes on draining")
        time.sleep(ASK_EVERY_S)
    say(f"{name} is drained: it holds nothing and gets nothing new; put it back with: mlx-mesh drain {name} --undo")


def _worker(name: str) -> dict[str, Any]:
    workers = command("status", {}, endpoint=control_endpoint())["workers"]
    for worker in workers:
        if worker["name"] == name:
            return dict(worker)
    known = ", ".join(worker["name"] for worker in workers) or "none"
    raise CommandError(f"there is no worker {name!r}; workers are: {known}")
