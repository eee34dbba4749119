"""The broker's four sockets, and those for peers with keys, with every option that matters set in one place."""

from __future__ import annotations

import ctypes
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import zmq

from mlx_mesh_broker import zap
from mlx_mesh_broker.settings import keyed_endpoints, with_keys
from mlx_mesh_wire import limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlx_mesh_broker.settings import BrokerSettings
    from mlx_mesh_wire.keys import PrivateKeys

BACKEND_HWM = 16_384
"""Messages kept for one worker. It holds few jobs, but credit and cancels come on top."""

LINGER_MS = 200
"""How long closing waits for answers under way; local peers take them in microseconds."""

BACKLOG = 4096
"""Connections that may be waiting to be accepted when a whole fleet of clients starts together."""

HANDSHAKE_MS = 2000
"""How long a new connection may take for its ZMTP handshake."""

SUBSCRIPTION_MAX_BYTES = 256
"""What a watcher may say at once. libzmq keeps every topic as long as its watcher is there, and bounds it nowhere."""

SUBSCRIPTIONS_HWM = 2
"""What one watcher has said and nobody has looked at. libzmq enters all of it at once, whenever it is asked anything:
with its default of 1000, a flood of subscriptions kept the loop for 90 ms of computing; with this, for 2.
"""


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


class KeyedSockets(NamedTuple):
    """The bound sockets on which peers have keys, by role, and the one that is asked who may connect."""

    zap: zmq.Socket[bytes]
    by_role: Mapping[str, zmq.Socket[bytes]]

    def close(self) -> None:
        """Close all; the one that lets peers in goes last, though without it nobody gets in either."""
        for socket in self.by_role.values():
            socket.close(LINGER_MS)
        self.zap.close(0)


def bind(context: zmq.Context[zmq.Socket[bytes]], run_dir: Path, settings: BrokerSettings) -> Sockets:
    """Bind all sockets; the ipc ones in the run directory, readable by nobody else."""
    seed_routing_ids()
    before = os.umask(0o077)
    try:
        frontend = _router(context, settings.client_hwm)
        backend = _router(context, BACKEND_HWM)
        control = _router(context, settings.client_hwm)
        events = context.socket(zmq.XPUB)
        events.set(zmq.SNDHWM, settings.events_hwm)
        events.set(zmq.LINGER, 0)
        events.set(zmq.BACKLOG, BACKLOG)
        events.set(zmq.RCVHWM, SUBSCRIPTIONS_HWM)
        events.set(zmq.MAXMSGSIZE, SUBSCRIPTION_MAX_BYTES)
        events.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        for name, socket in zip(NAMES, (frontend, backend, control, events), strict=True):
            socket.bind(f"ipc://{run_dir}/{name}.sock")
        for socket, endpoints in ((frontend, settings.listen), (backend, settings.listen_workers)):
            _bind_all(socket, [each for each in endpoints if not with_keys(each, settings)])
    finally:
        os.umask(before)
    return Sockets(frontend, backend, control, events)


def bind_keyed(context: zmq.Context[zmq.Socket[bytes]], settings: BrokerSettings, keys: PrivateKeys) -> KeyedSockets:
    """Bind the endpoints that are only for peers with keys, each role's on a socket of its own.

    Three things together make CURVE refuse whom it does not know: a handler, which is bound before anybody can
    connect; a domain; and ZAP_ENFORCE_DOMAIN. Without any of them libzmq lets every key in.
    """
    seed_routing_ids()
    handler = context.socket(zmq.ROUTER)
    handler.set(zmq.LINGER, 0)
    handler.bind(zap.ENDPOINT)
    keyed = keyed_endpoints(settings)
    by_role = {}
    for role, setting, hwm in (
        ("client", "listen", settings.client_hwm),
        ("worker", "listen_workers", BACKEND_HWM),
        ("operator", "listen_control", settings.client_hwm),
    ):
        endpoints = [endpoint for name, endpoint in keyed if name == setting]
        if endpoints:
            socket = by_role[role] = _router(context, hwm)
            socket.set(zmq.MAXMSGSIZE, limits.WRAPPED_MAX_BYTES)
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_SECRETKEY, keys.secret.encode())
            socket.set(zmq.ZAP_DOMAIN, role.encode())
            socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
            _bind_all(socket, endpoints)
    return KeyedSockets(handler, by_role)


def seed_routing_ids() -> None:
    """Have the routing ids of peers begin where nobody can guess.

    A ROUTER counts them up from a number that libzmq 4.3.5 takes from the C library's ``rand``, and on Unix nobody has
    seeded that: it would be the same in every process. Whoever knows the next one can take it for himself, be sent what
    was meant for another, and end the process: libzmq asserts that a number which it gives is free.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))


def ipc_paths(sockets: Sockets, settings: BrokerSettings, run_dir: Path) -> Iterator[tuple[Path, zmq.Socket[bytes]]]:
    """Yield the path of each ipc endpoint with its socket."""
    for name, socket in zip(NAMES, sockets, strict=True):
        yield run_dir / f"{name}.sock", socket
    for socket, endpoints in ((sockets.frontend, settings.listen), (sockets.backend, settings.listen_workers)):
        for endpoint in endpoints:
            if endpoint.startswith("ipc://"):
                yield Path(endpoint.removeprefix("ipc://")), socket


def bind_ipc(socket: zmq.Socket[bytes], path: Path) -> None:
    """Bind a socket to a path, readable by nobody else; what is there is removed.

    Raises:
        OSError: there can be no socket at this path.
    """
    before = os.umask(0o077)
    try:
        socket.bind(f"ipc://{path}")
    except zmq.ZMQError as error:
        raise OSError(error.errno, error.strerror) from None
    finally:
        os.umask(before)


def _bind_all(socket: zmq.Socket[bytes], endpoints: Sequence[str]) -> None:
    for endpoint in endpoints:
        socket.set(zmq.IPV6, "[" in endpoint)
        socket.bind(endpoint)


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
