"""What the broker's shell can be told; the other half of the ``[broker]`` section of ``mesh.toml``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlx_mesh_broker.core.config import Config
from mlx_mesh_wire.key_files import KeysError, check_directory
from mlx_mesh_wire.keys import BROKER, PrivateKeys, private_path, read_private
from mlx_mesh_wire.settings import SettingsError, setting

if TYPE_CHECKING:
    from pathlib import Path

METRICS_PORT = 9477
"""Unassigned by IANA and not taken in Prometheus' list of default ports."""

METRICS_DEFAULT = "default"
METRICS_OFF = "off"
"""What ``metrics_port`` may say instead of a port."""

KEYS_REMOTE = "remote"
KEYS_ALWAYS = "always"
"""What ``keys`` may say."""


@dataclass(frozen=True)
class BrokerSettings(Config):
    """The core's limits and intervals, and what the shell needs besides."""

    listen: tuple[str, ...] = setting((), help="further frontend endpoints, such as tcp://127.0.0.1:5570")
    listen_workers: tuple[str, ...] = setting((), help="further backend endpoints, such as tcp://127.0.0.1:5571")
    listen_control: tuple[str, ...] = setting(
        (), help="endpoints for operators with keys, such as tcp://0.0.0.0:5572; never without"
    )
    keys: str = setting(
        KEYS_REMOTE,
        choices=(KEYS_REMOTE, KEYS_ALWAYS),
        help="which TCP endpoints of clients and workers are for peers with keys only: those beyond loopback, or all",
    )
    metrics_port: int | str = setting(
        METRICS_DEFAULT,
        words=(METRICS_DEFAULT, METRICS_OFF),
        low=0,
        high=65535,
        help=f"loopback port of /metrics, /healthz and /readyz; 0 for a free one; default is {METRICS_PORT} in the "
        "default run directory and off elsewhere",
    )
    log_level: str = setting("info", choices=("debug", "info", "warning", "error"), help="least level that is logged")
    log_format: str = setting("console", choices=("console", "json"), help="lines for people or for machines")
    client_hwm: int = setting(
        2000, low=1, high=10**6, help="messages that ZeroMQ keeps for one client before the broker's own bound applies"
    )
    events_hwm: int = setting(64, low=1, high=10**6, help="event batches kept for a watcher before it misses some")


def check_endpoints(endpoints: tuple[str, ...], name: str) -> None:
    """Refuse what is no endpoint.

    Raises:
        SettingsError: not an ipc or tcp endpoint, an abstract ipc one, or an ipc one for operators.
    """
    for endpoint in endpoints:
        if not _is_endpoint(endpoint) or (name == "listen_control" and not endpoint.startswith("tcp:")):
            allowed = "tcp://HOST:PORT with a port from 1 to 65535"
            if name != "listen_control":
                allowed = f"ipc:///PATH or {allowed}"
            raise SettingsError(f"{name}: {endpoint!r} is not allowed; allowed: {allowed}")


def with_keys(endpoint: str, settings: BrokerSettings) -> bool:
    """Return whether only peers with keys are served at an endpoint of clients or workers; never at an ipc one."""
    if not endpoint.startswith("tcp:"):
        return False
    return settings.keys == KEYS_ALWAYS or not _is_loopback(urlsplit(endpoint).hostname or "")


def keyed_endpoints(settings: BrokerSettings) -> list[tuple[str, str]]:
    """Return the setting and the endpoint of all that is for peers with keys only."""
    both = (("listen", settings.listen), ("listen_workers", settings.listen_workers))
    found = [(name, each) for name, endpoints in both for each in endpoints if with_keys(each, settings)]
    return found + [("listen_control", each) for each in settings.listen_control]


def own_keys(settings: BrokerSettings, directory: Path) -> PrivateKeys | None:
    """Return the broker's keys; None if nothing is for peers with keys only.

    Raises:
        SettingsError: there are none, or others may read them; the message names the endpoint and a command that helps.
    """
    keyed = keyed_endpoints(settings)
    if not keyed:
        return None
    name, endpoint = keyed[0]
    path = private_path(directory, BROKER)
    if not path.exists() and not path.is_symlink():
        raise SettingsError(
            f"{name}: {endpoint!r} is not allowed without keys: anyone on the network could use the mesh; there are "
            f"none in {directory}; make them with: mlx-mesh keys init; "
            "allowed: with keys any address, without them loopback ones (127.0.0.1, [::1])"
        )
    check_directory(directory)
    keys = read_private(path)
    if keys.role != BROKER:
        raise KeysError(f"{path}: role is {keys.role!r}, must be {BROKER!r}")
    return keys


def _is_endpoint(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme == "ipc":
        # A relative path would depend on the folder; one with @ has no file, so no mode keeps other users out.
        return endpoint.startswith("ipc:///")
    return parts.scheme == "tcp" and bool(parts.hostname) and bool(port) and not parts.path


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
