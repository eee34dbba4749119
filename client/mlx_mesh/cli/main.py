"""The ``mlx-mesh`` command: which subcommands there are, and how their failures are told."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli import bench, chat, config, drain, embed, generate, keys, recycle, scale, status, up
from mlx_mesh.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, CommandError, note, say, told
from mlx_mesh_wire import MeshError
from mlx_mesh_wire.settings import SettingsError
from mlx_mesh_wire.supervisor import SupervisorError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_PIPE_CLOSED = 141
"""What a shell reports for a program that SIGPIPE ended, as in ``mlx-mesh status | head -1``."""

DESCRIPTION = """\
A warm-model mesh: start it, use it, look into it.

The run directory, $MLX_MESH_RUN_DIR or ~/.mlx-mesh/run, says which mesh is meant."""

EXITS = "exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="mlx-mesh",
        description=DESCRIPTION,
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (up, status, embed, generate, chat, drain, recycle, scale, bench, config, keys):
        module.add_parsers(commands)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that takes longer than most commands."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        say(f"mlx-mesh {version('mlx-mesh')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    args = build_parser().parse_args(argv)
    try:
        outcome: int = args.run(args)
        sys.stdout.flush()
    except CommandError as error:
        return _failed(str(error), error.status)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except KeyboardInterrupt:
        return _failed("interrupted", EXIT_INTERRUPTED)
    except MeshError as error:
        return _failed(told(error), EXIT_FAILED)
    except (SettingsError, SupervisorError, OSError) as error:
        return _failed(str(error), EXIT_FAILED)
    return outcome


def _failed(message: str, exit_status: int) -> int:
    note("mlx-mesh: " + " ".join(message.split()))
    return exit_status
