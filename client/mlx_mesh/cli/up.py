"""``mlx-mesh up`` and ``down``: start the mesh under supervisord until all of it is ready; stop it again."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mesh.cli.arguments import add_parser, add_timeout
from mlx_mesh.cli.arriving import local_workers
from mlx_mesh.cli.logs import Follower
from mlx_mesh.cli.output import EXIT_INTERRUPTED, EXIT_OK, CommandError, fail, note, say
from mlx_mesh.cli.starting import wait_until_ready
from mlx_mesh_wire import MeshError
from mlx_mesh_wire.control import command
from mlx_mesh_wire.endpoints import listening
from mlx_mesh_wire.host import process_start
from mlx_mesh_wire.paths import ensure_run_dir, ipc_endpoint, run_dir
from mlx_mesh_wire.supervisor import Supervisor, log_of, never_started

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

READY_WITHIN_S = 600.0
"""Loading a large model from a slow disk takes minutes."""

STOPPED_WITHIN_S = 90.0
"""Above what ``supervisord.conf`` grants the workers (40 s) and then the broker (15 s)."""

UP_MORE = """\
examples:
  mlx-mesh up                          in the foreground, with all logs
  mlx-mesh up --detach                 return when every worker is warm; stop it with: mlx-mesh down
  mlx-mesh up --generate ~/models/qwen text too, by the model in that folder (or a name on the hub)
  mlx-mesh up --conf my.conf           other engines, models or numbers of workers: a changed supervisord.conf"""

PLUGIN_SECTION, INCLUDE_SECTION = "[rpcinterface:mlx_mesh]", "[include]"
GENERATE_PROGRAM = "[program:generate]"
MODEL_VARIABLE = "MLX_MESH_GENERATE_MODEL"
"""What that program reads its model from, if nothing else says."""

BROKER_LOCK = "broker.lock"
"""Where a broker writes its pid."""

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, ``kill``, and a terminal that was closed."""

LOOK_EVERY_S = 0.1
FOLLOW_EVERY_S = 0.25


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``up`` and ``down``."""
    parser = add_parser(
        commands,
        "up",
        summary="start the mesh",
        about="Start a broker and its workers under supervisord, show their logs, and stop them on Ctrl-C.",
        more=UP_MORE,
    )
    parser.add_argument("-d", "--detach", action="store_true", help="return as soon as it is ready, leave it running")
    parser.add_argument(
        "--conf", type=Path, metavar="FILE", help="a supervisord.conf (default: the one that came along)"
    )
    parser.add_argument(
        "--generate",
        default="",
        metavar="MODEL",
        help="serve text by this model, or by several with commas between, the first being the default",
    )
    add_timeout(parser, READY_WITHIN_S, "how long it may take to get ready, else it is stopped again")
    parser.set_defaults(run=run_up)
    parser = add_parser(
        commands,
        "down",
        summary="stop the mesh",
        about="Stop the mesh. Workers finish what they hold, for at most 30 seconds.",
        more="A mesh that was started by supervisord itself is stopped too.",
    )
    add_timeout(parser, STOPPED_WITHIN_S, "how long to wait until all of it is gone")
    parser.set_defaults(run=run_down)


def run_up(args: argparse.Namespace) -> int:
    """Start the mesh; in the foreground also stop it."""
    directory = run_dir()
    supervisor = Supervisor(directory)
    end_by_interrupt()
    start(directory, supervisor, args.conf or default_conf(), args.generate)
    try:
        wait_until_ready(supervisor, directory, args.timeout)
        if args.detach:
            say(f"the mesh is up in {directory}; stop it with: mlx-mesh down")
            return EXIT_OK
        say(f"the mesh is up in {directory}; its logs follow; stop it with Ctrl-C")
        _follow(supervisor, directory)
    except (KeyboardInterrupt, CommandError) as error:
        note("stopping the mesh")
        stop(supervisor, STOPPED_WITHIN_S)
        if isinstance(error, CommandError):
            raise
        return EXIT_INTERRUPTED
    note("the mesh was stopped from outside")
    return EXIT_OK


def run_down(args: argparse.Namespace) -> int:
    """Stop the mesh of this run directory."""
    supervisor = Supervisor(run_dir())
    if stop(supervisor, args.timeout):
        say("the mesh is down")
    elif listening(ipc_endpoint("frontend")):
        fail(_alone(run_dir()))
    else:
        say(f"nothing is up in {run_dir()}")
    return EXIT_OK


def end_by_interrupt() -> None:
    """Make all that should end the command raise KeyboardInterrupt, but for what is ignored, as SIGHUP by nohup."""
    for number in _heeded():
        signal.signal(number, signal.default_int_handler)


def _heeded() -> list[signal.Signals]:
    return [number for number in INTERRUPTS if signal.getsignal(number) is not signal.SIG_IGN]


def default_conf() -> Path:
    """Return the ``supervisord.conf`` that came with this code; in a checkout it is the one on top."""
    return Path(__file__).with_name("supervisord.conf").resolve()


def stop(supervisor: Supervisor, timeout: float) -> bool:
    """Stop supervisord and all that it runs, and wait for that; return False if there was none.

    Raises:
        CommandError: it is still there after ``timeout`` seconds.
    """
    pid = supervisor.pid()
    if pid is None:
        return False
    started = process_start(pid)
    supervisor.shut_down()
    deadline = time.monotonic() + timeout
    while process_start(pid) == started:
        if time.monotonic() > deadline:
            fail(f"supervisord ({pid}) is still stopping after {timeout:g} s; look into {supervisor.socket.parent}")
        time.sleep(LOOK_EVERY_S)
    return True


def start(directory: Path, supervisor: Supervisor, conf: Path, model: str = "") -> None:
    """Start supervisord for a run directory; it goes on by itself.

    Args:
        directory: the run directory.
        supervisor: of that directory.
        conf: what it runs.
        model: for the workers that generate text; empty leaves that to the settings.

    Raises:
        CommandError: the mesh is up already, or supervisord refuses.
        KeyboardInterrupt: a signal came meanwhile; supervisord is stopped again.
    """
    _check_free(directory, supervisor, conf)
    lines = {line.strip() for line in conf.read_text(encoding="utf-8", errors="replace").splitlines()}
    if not lines & {PLUGIN_SECTION, INCLUDE_SECTION}:
        # supervisord would start all of it where it stands, and nobody would find it to stop it.
        fail(f"{conf} has no {PLUGIN_SECTION}; take that section from the supervisord.conf that comes with the mesh")
    if model and GENERATE_PROGRAM not in lines:
        fail(f"{conf} has no {GENERATE_PROGRAM} that --generate could start")
    environment = {**os.environ, MODEL_VARIABLE: model} if model else None
    command = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(conf.absolute())]
    with _signals_kept() as came:
        started = subprocess.run(  # noqa: S603  this interpreter
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
        )
    if came:
        stop(supervisor, STOPPED_WITHIN_S)
        raise KeyboardInterrupt
    if started.returncode:
        output = (started.stderr.strip() or started.stdout.strip()).splitlines()
        fail("supervisord did not start: " + (output[0] if output else f"exit status {started.returncode}"))


@contextlib.contextmanager
def _signals_kept() -> Iterator[list[int]]:
    """Note the signals that would interrupt: supervisord detaches itself, and nobody would stop it then."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _heeded()}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_free(directory: Path, supervisor: Supervisor, conf: Path) -> None:
    if importlib.util.find_spec("supervisor") is None:
        fail("supervisord is not installed; run: pip install 'mlx-mesh[all]'")
    if not conf.is_file():
        fail(f"{conf}: there is no such file")
    try:
        ensure_run_dir(directory)
    except (OSError, ValueError) as error:
        fail(str(error))
    if pid := supervisor.pid():
        fail(
            f"the mesh in {directory} is up already (supervisord {pid}); "
            "look at it with: mlx-mesh status, stop it with: mlx-mesh down"
        )
    if listening(ipc_endpoint("frontend")):
        fail(_alone(directory))


def _alone(directory: Path) -> str:
    """Return that a broker was started by hand, or that its supervisord was killed, and how to end all of it."""
    text = f"the broker in {directory} has no supervisord; end it and its workers"
    try:
        pids = [json.loads((directory / BROKER_LOCK).read_text(encoding="utf-8"))["pid"]]
        pids += local_workers(command("status", {}))
    except (OSError, ValueError, KeyError, TypeError, MeshError):
        return f"{text}, which mlx-mesh status shows"
    return f"{text} with: kill {' '.join(map(str, pids))}"


def _follow(supervisor: Supervisor, directory: Path) -> None:
    """Show new lines of all logs until supervisord is gone."""
    followers: dict[str, Follower] = {}
    width = 0
    while processes := supervisor.processes():
        for process in processes:
            # Those that are off too: somebody may start them. And those that are added meanwhile.
            if process["name"] not in followers:
                followers[process["name"]] = Follower(log_of(process, directory))
                width = width if never_started(process) else max(width, len(process["name"]))
        for name, follower in followers.items():
            for line in follower.new_lines():
                say(f"{name:{width}} | {line}")
        sys.stdout.flush()
        time.sleep(FOLLOW_EVERY_S)
