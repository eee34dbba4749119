"""A mesh of real processes with keys of each role, and peers that knock at its doors in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from mlx_mesh.cli.main import main
from mlx_mesh_wire import decode_header, encode_header, messages
from mlx_mesh_wire.keys import PrivateKeys, entries_dir, private_path, read_private
from mlx_mesh_wire.wrapping import unwrap, wrap
from tests.live import LiveMesh, free_ports, live_mesh, until

ROLES = ("client", "worker", "operator")
PATIENCE_MS = 30_000

REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
Raw = zmq.Socket[bytes]
Arm = Callable[[Raw], None]


def keys(directory: Path, *args: str) -> int:
    """Run ``mlx-mesh keys`` on a directory."""
    return main(["keys", args[0], "--keys-dir", str(directory), *args[1:]])


class KeyedMesh:
    """A broker with a door for each role, and a holder of a key for each: alice, bob and olga."""

    def __init__(self, mesh: LiveMesh) -> None:
        self.mesh = mesh
        self.dir = mesh.dir / "keys"
        mesh.env["MLX_MESH_KEYS_DIR"] = str(self.dir)
        keys(self.dir, "init")
        for role, name in zip(ROLES, ("alice", "bob", "olga"), strict=True):
            keys(self.dir, f"add-{role}", name)
        ports = zip(ROLES, free_ports(len(ROLES)), strict=True)
        self.endpoints = {role: f"tcp://127.0.0.1:{port}" for role, port in ports}

    def start(self, *args: str) -> None:
        """Start the broker and wait until it serves."""
        client, worker, operator = self.endpoints.values()
        listen = ("--listen", client, "--listen-workers", worker, "--listen-control", operator)
        self.mesh.broker("--keys", "always", "--metrics-port", "0", *listen, *args)
        until(lambda: "broker_ready" in self.mesh.log("broker"), "the broker to be ready")

    def path(self, name: str) -> Path:
        return private_path(self.dir, name)

    def key(self, name: str) -> PrivateKeys:
        return read_private(self.path(name))

    def entry(self, name: str) -> Path:
        return entries_dir(self.dir) / f"{name}.json"


@contextmanager
def keyed_mesh(*args: str) -> Iterator[KeyedMesh]:
    with live_mesh() as mesh:
        made = KeyedMesh(mesh)
        made.start(*args)
        yield made


def with_key(held: PrivateKeys, server: str = "") -> Arm:
    """Return what gives a socket a key."""

    def arm(raw: Raw) -> None:
        raw.set(zmq.CURVE_SERVERKEY, (server or held.server).encode())
        raw.set(zmq.CURVE_PUBLICKEY, held.public.encode())
        raw.set(zmq.CURVE_SECRETKEY, held.secret.encode())

    return arm


def without(raw: Raw) -> None:
    """Leave a socket without any mechanism."""


def plain(raw: Raw) -> None:
    raw.set(zmq.PLAIN_USERNAME, b"alice")
    raw.set(zmq.PLAIN_PASSWORD, b"secret")


GREETING: dict[str, Any] = {
    "client": messages.Hello(1, 0, b"s" * 16, "by hand", ""),
    "worker": messages.Ready(1, 0, b"i" * 16, "by-hand", "host", "nowhere", 1, 0, ["op"], [], [], 1, 0, {}),
    "operator": messages.Command(1, "ping"),
}


class Knock:
    """One connection by hand, and how its handshakes end."""

    def __init__(self, endpoint: str, arm: Arm, routing_id: bytes = b"") -> None:
        self._context: zmq.Context[Raw] = zmq.Context()
        self.raw = self._context.socket(zmq.DEALER)
        self.raw.set(zmq.LINGER, 0)
        arm(self.raw)
        self._keyed = self.raw.get(zmq.MECHANISM) == zmq.CURVE
        if routing_id:
            self.raw.set(zmq.ROUTING_ID, routing_id)
        self._monitor = self.raw.get_monitor_socket(REFUSED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.raw.connect(endpoint)

    def event(self) -> int:
        """Wait for the end of a handshake and return it."""
        assert self._monitor.poll(PATIENCE_MS), "nothing came of the handshake"
        return int(parse_monitor_message(self._monitor.recv_multipart())["event"])

    def verdict(self) -> int:
        """Wait for the end of a handshake that somebody has judged, and return it.

        One that takes over two seconds, as when a process is held up, is ended without a word; libzmq tries again.
        """
        while (event := self.event()) == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            pass
        return event

    def say(self, message: Any) -> None:
        header = encode_header(message)
        self.raw.send(wrap([header]) if self._keyed else header)

    def hear(self, wait_ms: int = PATIENCE_MS) -> Any:
        """Return the next message, None if there is none in time."""
        if not self.raw.poll(wait_ms):
            return None
        frames = self.raw.recv_multipart()
        return decode_header(unwrap(*frames)[0] if self._keyed else frames[0])

    def close(self) -> None:
        self.raw.disable_monitor()
        self._monitor.close(0)
        self._context.destroy(0)


@contextmanager
def knock(endpoint: str, arm: Arm, routing_id: bytes = b"") -> Iterator[Knock]:
    made = Knock(endpoint, arm, routing_id)
    try:
        yield made
    finally:
        made.close()
