"""``mlx-mesh-worker``: load an engine, serve it, leave in good order."""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import traceback
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire.logs import log, set_up
from mlx_mesh_wire.paths import ensure_run_dir, ipc_endpoint, run_dir
from mlx_mesh_wire.settings import SettingsError, add_flags, config_file, load_settings
from mlx_mesh_wire.transport import LibraryError, check_library
from mlx_mesh_worker.engine import EngineBrokenError, EngineLoadError
from mlx_mesh_worker.engines import settings_of
from mlx_mesh_worker.settings import WorkerSettings, check_settings, worker_keys
from mlx_mesh_worker.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_BROKEN = 1
EXIT_USAGE = 2
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: starting again will not help, so supervisord is told not to."""


LOAD_HINT = "it is started again; an engine that this does not help should raise EngineLoadError"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until SIGTERM; return the exit status."""
    try:
        settings, options = _settings(argv)
        directory = run_dir()
        ensure_run_dir(directory)
        keys = worker_keys(settings)
        check_library(curve=keys is not None)
    except (SettingsError, LibraryError, ValueError, OSError) as error:
        print(f"mlx-mesh-worker: {error}", file=sys.stderr)  # noqa: T201  the log is not set up yet
        return EXIT_USAGE
    set_up(settings.log_level, settings.log_format)
    shell = Shell(settings, settings.broker or ipc_endpoint("backend"), directory, options, keys)
    _install_signals(shell)
    status = _run(shell, settings)
    if not shell.stopped:
        # A step goes on. Taking the interpreter, or MLX, apart under it waits for it, or crashes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _install_signals(shell: Shell) -> None:
    """Have SIGTERM and SIGINT drain, SIGUSR1 print every stack, and crashes leave a traceback."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shell.signalled())
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _run(shell: Shell, settings: WorkerSettings) -> int:
    """Serve until the end; say what it was and return the exit status for it."""
    try:
        return shell.run()
    except SystemExit:  # told to leave while the engine was imported
        return 0
    except EngineLoadError as error:
        log("error", "cannot_load", engine=settings.engine, reason=str(error))
        return EXIT_CONFIG
    except EngineBrokenError as error:
        log("error", "engine_broken", engine=settings.engine, reason=str(error))
        return EXIT_BROKEN
    except Exception as error:  # noqa: BLE001  whatever it was, say it, exit non-zero and be started again
        why = {"reason": repr(error), "traceback": traceback.format_exc()}
        if shell.loaded:
            log("error", "crashed", **why)
        else:
            log("error", "load_failed", engine=settings.engine, hint=LOAD_HINT, **why)
        return EXIT_BROKEN


def _settings(argv: Sequence[str] | None) -> tuple[WorkerSettings, Any]:
    """Return the worker's settings, and its engine's own if it has any; which flags there are depends on the engine."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flags(first, WorkerSettings)
    known, _ = first.parse_known_args(argv)
    file = config_file()
    settings = load_settings(WorkerSettings, "worker", file=file, flags=vars(known))
    parser = argparse.ArgumentParser(
        prog="mlx-mesh-worker",
        description="Serve an engine. Every flag may also stand in [worker] of mesh.toml or in "
        "MLX_MESH_WORKER_<NAME>; MLX_MESH_RUN_DIR says where the broker is. With --engine generate, --help shows the "
        "flags of that engine too.",
    )
    add_flags(parser, WorkerSettings)
    own = settings_of(settings.engine)
    if own is not None:
        section = f"[{settings.engine}] of mesh.toml, or MLX_MESH_{settings.engine.upper()}_<NAME>"
        shared = {field.name for field in fields(WorkerSettings)}  # --model stands for the engine's own model too
        add_flags(parser.add_argument_group(f"engine {settings.engine}", section), own, without=shared)
    flags = vars(parser.parse_args(argv))
    check_settings(settings)
    options = None if own is None else load_settings(own, settings.engine, file=file, flags=flags)
    return settings, options


if __name__ == "__main__":
    sys.exit(main())
