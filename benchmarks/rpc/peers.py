"""Starts every echo service that is installed and says how its clients reach it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import psutil

from benchmarks.machine import nats_server
from benchmarks.processes import Group, free_port, listens, until

WORKERS = 2
MOSEC_TIMEOUT_MS = "60000"


class Peer(NamedTuple):
    """A service that is up: how clients speak, where to, and the process in the middle (0 if there is none)."""

    name: str
    client: str
    address: str
    middle_pid: int


class Missing(NamedTuple):
    """A service that cannot run here, and what to do about it."""

    name: str
    reason: str


def start_all(group: Group) -> tuple[list[Peer], list[Missing]]:
    """Start what can be started."""
    peers: list[Peer] = []
    missing: list[Missing] = []
    for start in (start_mesh, start_proxy, start_nats, start_mosec, start_zerorpc):
        found = start(group)
        if isinstance(found, Missing):
            missing.append(found)
        else:
            peers += found
    return peers, missing


def start_mesh(group: Group) -> list[Peer] | Missing:
    """Start a broker and two echo workers; they are measured with two clients."""
    broker = group.mesh("echo", WORKERS)
    return [
        Peer("mesh", "mesh", group.endpoint, broker.pid),
        Peer("mesh, raw client", "mesh-raw", group.endpoint, broker.pid),
    ]


def start_proxy(group: Group) -> list[Peer] | Missing:
    """Start libzmq's proxy in a process of its own, and two bare workers."""
    front, back = f"ipc://{group.dir}/proxy-front.sock", f"ipc://{group.dir}/proxy-back.sock"
    proxy = group.python("benchmarks.rpc.servers", "proxy", front, back, log="proxy")
    for number in range(WORKERS):
        group.python("benchmarks.rpc.servers", "zmq", back, log=f"zmq-{number}")
    until((group.dir / "proxy-back.sock").exists, "zmq.proxy")
    return [Peer("zmq.proxy", "zmq-raw", front, proxy.pid)]


def start_nats(group: Group) -> list[Peer] | Missing:
    """Start nats-server and a queue group of two."""
    server = nats_server()
    if server is None:
        return Missing("nats", "nats-server is not installed (Debian: apt-get install nats-server)")
    if missing := _lacks("nats", "nats"):
        return missing
    port = free_port()
    process = group.start(server, "-a", "127.0.0.1", "-p", str(port), log="nats-server")
    until(lambda: listens(port), "nats-server")
    url = f"nats://127.0.0.1:{port}"
    for number in range(WORKERS):
        group.python("benchmarks.rpc.servers", "nats", url, log=f"nats-{number}")
    return [Peer("nats", "nats", url, process.pid)]


def start_mosec(group: Group) -> list[Peer] | Missing:
    """Start mosec; the process in the middle is the one that is written in Rust."""
    if missing := _lacks("mosec", "mosec"):
        return missing
    port, middle = mosec_server(group, "benchmarks.rpc.mosec_echo", "mosec")
    clients = {"mosec": "mosec", "mosec, aiohttp": "mosec-aiohttp"}
    return [
        Peer(name, client, str(port), middle)
        for name, client in clients.items()
        if client == "mosec" or not _lacks(name, "aiohttp")
    ]


def start_zerorpc(group: Group) -> list[Peer] | Missing:
    """Start two zerorpc servers. Its clients connect to each of them, so there is no process in the middle."""
    if missing := _lacks("zerorpc", "zerorpc"):
        return missing
    endpoints = [f"ipc://{group.dir}/zerorpc-{number}.sock" for number in range(WORKERS)]
    for number, endpoint in enumerate(endpoints):
        group.python("benchmarks.rpc.servers", "zerorpc", endpoint, log=f"zerorpc-{number}")
    return [Peer("zerorpc", "zerorpc", ",".join(endpoints), 0)]


def mosec_server(group: Group, module: str, log: str) -> tuple[int, int]:
    """Start a mosec service; return its port and the pid of its server in Rust."""
    port = free_port()
    flags = ["--address", "127.0.0.1", "--port", str(port), "--path", f"{group.dir}/{log}"]
    flags += ["--timeout", MOSEC_TIMEOUT_MS, "--log-level", "error"]
    process = group.python(module, *flags, log=log)
    middle = until(_child(process.pid, "mosec"), "mosec's server")
    until(lambda: listens(port), "mosec")
    return port, middle


def _child(pid: int, name: str) -> Callable[[], int]:
    def find() -> int:
        children = psutil.Process(pid).children()
        return next((child.pid for child in children if child.name() == name), 0)

    return find


def _lacks(name: str, module: str) -> Missing | None:
    if importlib.util.find_spec(module) is not None:
        return None
    return Missing(name, f"the package {module} is not installed (scripts/setup peers)")
