"""What the broker's shell can be told; the other half of the ``[broker]`` section of ``mesh.toml``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlx_mesh_broker.core.config import Config
from mlx_mesh_wire.settings import SettingsError, setting

METRICS_PORT = 9477
"""Unassigned by IANA and not taken in Prometheus' list of default ports."""

METRICS_DEFAULT = "default"
METRICS_OFF = "off"
"""What ``metrics_port`` may say instead of a port."""


@dataclass(frozen=True)
class BrokerSettings(Config):
    """The core's limits and intervals, and what the shell needs besides."""

    listen: tuple[str, ...] = setting((), help="further frontend endpoints, such as tcp://127.0.0.1:5570")
    listen_workers: tuple[str, ...] = setting((), help="further backend endpoints, such as tcp://127.0.0.1:5571")
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
    """Refuse what would open the mesh to others, and what is no endpoint.

    Raises:
        SettingsError: not an ipc or tcp endpoint, an abstract ipc one, or a TCP one beyond loopback.
    """
    for endpoint in endpoints:
        if not _is_endpoint(endpoint):
            raise SettingsError(
                f"{name}: {endpoint!r} is not allowed; "
                "allowed: ipc:///PATH or tcp://HOST:PORT with a port from 1 to 65535"
            )
        if endpoint.startswith("tcp:") and not _is_loopback(urlsplit(endpoint).hostname or ""):
            raise SettingsError(
                f"{name}: {endpoint!r} is not allowed: anyone on the network could use the mesh; "
                "allowed: loopback addresses (127.0.0.1, [::1]), since connections are not encrypted yet"
            )


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
