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
from mlx_mesh_broker.lockfile import AlreadyRunningError, RunDirLock
from mlx_mesh_broker.settings import METRICS_DEFAULT, METRICS_OFF, METRICS_PORT, BrokerSettings, check_endpoints
from mlx_mesh_broker.shell import Shell
from mlx_mesh_broker.sockets import bind, remove_files
from mlx_mesh_wire.host import machine_id
from mlx_mesh_wire.logs import log, set_up
from mlx_mesh_wire.paths import RUN_DIR_VARIABLE, ensure_run_dir, run_dir
from mlx_mesh_wire.settings import SettingsError, add_flags, config_file, load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_mesh_broker.http import Monitor

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
        _check_metrics(settings)
    except (SettingsError, ValueError, OSError) as error:
        print(f"mlx-mesh-broker: {error}", file=sys.stderr)  # noqa: T201  the log is not set up yet
        return EXIT_USAGE
    set_up(settings.log_level, settings.log_format)
    try:
        lock = RunDirLock(directory)
    except AlreadyRunningError as error:
        log("error", "already_running", reason=str(error))
        return EXIT_ALREADY_RUNNING
    try:
        return _serve(settings, directory)
    finally:
        lock.release()


def _settings(argv: Sequence[str] | None) -> BrokerSettings:
    parser = argparse.ArgumentParser(
        prog="mlx-mesh-broker",
        description="Balance requests over workers. Every flag may also stand in [broker] of mesh.toml or in "
        "MLX_MESH_BROKER_<NAME>; MLX_MESH_RUN_DIR says where the sockets are.",
    )
    add_flags(parser, BrokerSettings)
    flags = vars(parser.parse_args(argv))
    return load_settings(BrokerSettings, "broker", file=config_file(), flags=flags)


def _serve(settings: BrokerSettings, directory: Path) -> int:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        sockets = bind(context, directory, settings)
    except zmq.ZMQError as error:
        log("error", "cannot_bind", reason=str(error), listen=",".join((*settings.listen, *settings.listen_workers)))
        context.destroy(0)
        return EXIT_CANNOT_BIND
    core = Broker(settings, secrets.token_hex(8), time.monotonic(), machine_id())
    shell = Shell(core, sockets, settings, directory)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shell.stop())
    monitor = _monitor(settings, shell)
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
        context.term()
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
