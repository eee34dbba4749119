"""``mlx-mesh-broker``: start, serve, stop."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING

import zmq

from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.descriptors import raise_limit
from mlx_mesh_broker.doors import Doors
from mlx_mesh_broker.lockfile import AlreadyRunningError, RunDirLock
from mlx_mesh_broker.paths_watch import PathsWatch
from mlx_mesh_broker.settings import (
    METRICS_DEFAULT,
    METRICS_OFF,
    METRICS_PORT,
    BrokerSettings,
    check_endpoints,
    keyed_endpoints,
    own_keys,
)
from mlx_mesh_broker.shell import Shell
from mlx_mesh_broker.sockets import bind, bind_keyed, remove_files
from mlx_mesh_wire.host import machine_id
from mlx_mesh_wire.keys import keys_dir
from mlx_mesh_wire.logs import log, set_up
from mlx_mesh_wire.paths import RUN_DIR_VARIABLE, ensure_run_dir, run_dir
from mlx_mesh_wire.settings import SettingsError, add_flags, config_file, load_settings
from mlx_mesh_wire.transport import LibraryError, check_library

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_mesh_broker.http import Monitor
    from mlx_mesh_wire.keys import PrivateKeys

EXIT_USAGE = 2
EXIT_ALREADY_RUNNING = 3
EXIT_CANNOT_BIND = 4

GC_THRESHOLD = 200_000
"""The core makes no cycles; collecting seldom keeps the longest pause out of the 99th percentile."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the broker until SIGTERM or SIGINT; return the exit status."""
    try:
        settings = _settings(argv)
        directory = run_dir()
        ensure_run_dir(directory)
        check_endpoints(settings.listen, "listen")
        check_endpoints(settings.listen_workers, "listen_workers")
        check_endpoints(settings.listen_control, "listen_control")
        keys = own_keys(settings, keys_dir())
        check_library(curve=keys is not None)
        _check_metrics(settings)
    except (SettingsError, LibraryError, ValueError, OSError) as error:
        print(f"mlx-mesh-broker: {error}", file=sys.stderr)  # noqa: T201  the log is not set up yet
        return EXIT_USAGE
    set_up(settings.log_level, settings.log_format)
    try:
        lock = RunDirLock(directory)
    except AlreadyRunningError as error:
        log("error", "already_running", reason=str(error))
        return EXIT_ALREADY_RUNNING
    in_order = False
    try:
        status = _serve(settings, directory, keys, lock)
        in_order = status == 0 or not lock.abandoned
        return status
    finally:
        lock.release(in_order=in_order)


def _settings(argv: Sequence[str] | None) -> BrokerSettings:
    parser = argparse.ArgumentParser(
        prog="mlx-mesh-broker",
        description="Balance requests over workers. Every flag may also stand in [broker] of mesh.toml or in "
        "MLX_MESH_BROKER_<NAME>; MLX_MESH_RUN_DIR says where the sockets are.",
    )
    add_flags(parser, BrokerSettings)
    flags = vars(parser.parse_args(argv))
    return load_settings(BrokerSettings, "broker", file=config_file(), flags=flags)


def _serve(settings: BrokerSettings, directory: Path, keys: PrivateKeys | None, lock: RunDirLock) -> int:
    raise_limit()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        sockets = bind(context, directory, settings)
        keyed = bind_keyed(context, settings, keys) if keys is not None else None
    except zmq.ZMQError as error:
        asked = (*settings.listen, *settings.listen_workers, *settings.listen_control)
        log("error", "cannot_bind", reason=str(error), listen=",".join(asked))
        context.destroy(0)
        return EXIT_CANNOT_BIND
    core = Broker(settings, secrets.token_hex(8), time.monotonic(), machine_id(), bereft=lock.abandoned)
    doors = Doors(keyed, keys_dir()) if keyed is not None else None
    paths = PathsWatch(sockets, settings, directory, lock.held)
    shell = Shell(core, sockets, settings, directory, paths=paths, doors=doors)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shell.stop())
    monitor = _monitor(settings, shell)
    if doors is not None:
        endpoints = ",".join(endpoint for _, endpoint in keyed_endpoints(settings))
        log("info", "keys_on", listen=endpoints, authorised=len(doors.authorised))
    log("info", "broker_ready", run_dir=directory, pid=os.getpid(), listen=",".join(settings.listen) or "ipc only")
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 50)
    try:
        shell.run()
    finally:
        if monitor is not None:
            monitor.close()
        shell.close()
        sockets.close()
        if keyed is not None:
            keyed.close()
        context.term()
        if lock.held():  # Otherwise they are those of the broker that has the directory now.
            remove_files(directory)
    log("info", "broker_stopped")
    return 0


def _can_export() -> bool:
    return importlib.util.find_spec("prometheus_client") is not None


def _check_metrics(settings: BrokerSettings) -> None:
    """Refuse a port that was asked for and cannot be served; without one, the broker goes on without metrics."""
    if isinstance(settings.metrics_port, int) and not _can_export():
        raise SettingsError("metrics_port: metrics need prometheus-client; run: pip install 'mlx-mesh[broker]'")


def _monitor(settings: BrokerSettings, shell: Shell) -> Monitor | None:
    port = settings.metrics_port
    if port == METRICS_DEFAULT:
        port = METRICS_OFF if os.environ.get(RUN_DIR_VARIABLE) else METRICS_PORT
    if not isinstance(port, int):
        return None
    if not _can_export():
        log("warning", "metrics_off", port=port, hint="pip install 'mlx-mesh[broker]'")
        return None
    from mlx_mesh_broker.http import Monitor

    try:
        monitor = Monitor(port, shell.snapshot)
    except OSError as error:
        log("warning", "metrics_off", port=port, reason=str(error), hint="set another with --metrics-port")
        return None
    log("info", "metrics_on", url=f"http://127.0.0.1:{monitor.port}/metrics")
    return monitor


if __name__ == "__main__":
    sys.exit(main())
