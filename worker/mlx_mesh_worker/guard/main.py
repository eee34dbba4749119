"""``mlx-mesh-guard``: started by supervisord as an event listener, watches memory and the workers."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from typing import TYPE_CHECKING

from mlx_mesh_wire.logs import log, set_up
from mlx_mesh_wire.paths import ensure_run_dir, run_dir
from mlx_mesh_wire.settings import SettingsError, add_flags, config_file, load_settings
from mlx_mesh_wire.supervisor import SupervisorError
from mlx_mesh_worker.guard.listener import ListenerError
from mlx_mesh_worker.guard.settings import GuardSettings, check_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_BROKEN = 1
EXIT_USAGE = 2
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: what was configured cannot be done, so supervisord is told not to start it again."""

LISTENER_HINT = (
    "it speaks supervisord's protocol for event listeners on stdin and stdout: "
    "start it by [eventlistener:guard] of supervisord.conf"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a guard until SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="mlx-mesh-guard",
        description="Watch the memory of this machine and its workers, under supervisord. Every flag may also stand in "
        "[guard] of mesh.toml or in MLX_MESH_GUARD_<NAME>.",
    )
    add_flags(parser, GuardSettings)
    flags = vars(parser.parse_args(argv))
    if importlib.util.find_spec("psutil") is None:
        return _usage("psutil is not installed; run: pip install 'mlx-mesh[supervise]'")
    from mlx_mesh_worker.guard.shell import Shell
    from mlx_mesh_worker.guard.sources import total_memory

    try:
        total = total_memory()
        settings = load_settings(GuardSettings, "guard", file=config_file(), flags=flags)
        check_settings(settings, total)
        directory = run_dir()
        ensure_run_dir(directory)
    except (SettingsError, ValueError, OSError) as error:
        return _usage(str(error))
    if not os.environ.get("SUPERVISOR_ENABLED"):
        return _usage(LISTENER_HINT)
    set_up(settings.log_level, settings.log_format)
    shell = Shell(settings, directory, total)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shell.signalled())
    try:
        shell.run()
    except (SettingsError, SupervisorError) as error:
        log("error", "cannot_guard", reason=str(error))
        return EXIT_CONFIG
    except (ListenerError, BrokenPipeError) as error:
        log("error", "no_supervisord", reason=str(error), hint=LISTENER_HINT)
        return EXIT_BROKEN
    return 0


def _usage(reason: str) -> int:
    print(f"mlx-mesh-guard: {reason}", file=sys.stderr)  # noqa: T201  the log is not set up yet
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
