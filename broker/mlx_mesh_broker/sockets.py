"""The broker's four sockets, with every option that matters set in one place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import zmq

from mlx_mesh_wire import limits

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_broker.settings import BrokerSettings

BACKEND_HWM = 16_384
"""Messages kept for one worker. It holds few jobs, but credit and cancels come on top."""

LINGER_MS = 200
"""How long closing waits for answers under way; local peers take them in microseconds."""

BACKLOG = 4096
"""Connections that may be waiting to be accepted when a whole fleet of clients starts together."""

HANDSHAKE_MS = 2000
"""How long a new connection may take for its ZMTP handshake."""


NAMES = ("frontend", "backend", "control", "events")


class Sockets(NamedTuple):
    """The bound sockets."""

    frontend: zmq.Socket[bytes]
    backend: zmq.Socket[bytes]
    control: zmq.Socket[bytes]
    events: zmq.Socket[bytes]

    def close(self) -> None:
        """Close all four."""
        for socket in self:
            socket.close(LINGER_MS)


def bind(context: zmq.Context[zmq.Socket[bytes]], run_dir: Path, settings: BrokerSettings) -> Sockets:
    """Bind all sockets; the ipc ones in the run directory, readable by nobody else."""
    before = os.umask(0o077)
    try:
        frontend = _router(context, settings.client_hwm)
        backend = _router(context, BACKEND_HWM)
        control = _router(context, settings.client_hwm)
        events = context.socket(zmq.XPUB)
        events.set(zmq.SNDHWM, settings.events_hwm)
        events.set(zmq.LINGER, 0)
        for name, socket in zip(NAMES, (frontend, backend, control, events), strict=True):
            socket.bind(f"ipc://{run_dir}/{name}.sock")
        for socket, endpoints in ((frontend, settings.listen), (backend, settings.listen_workers)):
            for endpoint in endpoints:
                socket.set(zmq.IPV6, "[" in endpoint)
                socket.bind(endpoint)
    finally:
        os.umask(before)
    return Sockets(frontend, backend, control, events)


def remove_files(run_dir: Path) -> None:
    """Remove the files of the ipc sockets, which ZeroMQ leaves behind; only for whoever holds the run directory."""
    for name in NAMES:
        (run_dir / f"{name}.sock").unlink(missing_ok=True)


def _router(context: zmq.Context[zmq.Socket[bytes]], hwm: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.SNDHWM, hwm)
    socket.set(zmq.RCVHWM, hwm)
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.BACKLOG, BACKLOG)
    socket.set(zmq.MAXMSGSIZE, limits.MESSAGE_MAX_BYTES)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    return socket
