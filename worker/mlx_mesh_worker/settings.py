"""What a worker can be told; the ``[worker]`` section of ``mesh.toml``."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_mesh_wire import limits
from mlx_mesh_wire.endpoints import endpoint_fault
from mlx_mesh_wire.keys import PrivateKeys, keys_of
from mlx_mesh_wire.settings import SettingsError, setting
from mlx_mesh_worker.engines import ALLOWED


@dataclass(frozen=True)
class WorkerSettings:
    """Times in seconds."""

    engine: str = setting("", help=ALLOWED)
    model: str = setting("", help="a folder or the name of a model; empty for the engine's default")
    name: str = setting("", help="name shown to operators; empty for the engine's name and the pid")
    broker: str = setting("", help="the broker's backend endpoint; empty for the one in the run directory")
    keys: str = setting(
        "", help="the file made by `mlx-mesh keys add-worker`, for a broker whose endpoint needs keys; empty for none"
    )
    slots: int = setting(0, low=0, high=4096, help="jobs taken at once; 0 for what the engine asks for")
    drain_s: float = setting(30.0, low=0, high=3600, help="how long SIGTERM waits for what has begun")
    load_max_s: float = setting(300.0, low=1, high=86400, help="longest time to load and warm up before giving up")
    stuck_s: float = setting(120.0, low=1, high=86400, help="longest time for one step before the process is ended")
    failures_max: int = setting(5, low=1, high=1000, help="steps in a row that may fail before the process exits")
    log_level: str = setting("info", choices=("debug", "info", "warning", "error"), help="least level that is logged")
    log_format: str = setting("console", choices=("console", "json"), help="lines for people or for machines")


def check_settings(settings: WorkerSettings) -> None:
    """Refuse what no engine could be served with; the broker would refuse it too, and nobody would see why.

    Raises:
        SettingsError: naming the field, what was given and what is allowed.
    """
    if not settings.engine:
        raise SettingsError(f"--engine is missing; allowed: {ALLOWED}")
    name = settings.name
    if len(name) > limits.NAME_MAX_CHARS or not name.isprintable():
        raise SettingsError(
            f"name: {name!r} is not allowed; allowed: at most {limits.NAME_MAX_CHARS} characters that can be printed"
        )
    if settings.broker and (fault := endpoint_fault(settings.broker)):
        raise SettingsError(f"broker: {fault}")


def worker_keys(settings: WorkerSettings) -> PrivateKeys | None:
    """Return the keys to connect with; None without any.

    Raises:
        SettingsError: the file cannot be used, or the broker's endpoint is an ipc one, which has no keys.
    """
    if not settings.keys:
        return None
    if not settings.broker.startswith("tcp:"):
        raise SettingsError("keys: they are for a broker at a tcp endpoint; say which by --broker, or leave them out")
    return keys_of("worker", settings.keys, "keys")
