"""Endpoints that are refused before anything tries to connect to them."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from mlx_mesh_wire.endpoints import endpoint_fault
from mlx_mesh_wire.transport import dealer

GOOD = [
    "ipc:///tmp/run/backend.sock",
    "ipc://relative.sock",
    "tcp://127.0.0.1:5570",
    "tcp://localhost:1",
    "tcp://a-host.example:65535",
    "tcp://[::1]:5570",
    "tcp://[fe80::1%eth0]:5570",
]
BAD: list[tuple[Any, str]] = [
    ("banana", "no endpoint"),
    ("", "no endpoint"),
    (7, "no endpoint"),
    ("tcp://", "no endpoint"),
    ("udp://127.0.0.1:5570", "no endpoint"),
    ("inproc://x", "no endpoint"),
    ("ipc://a\0b", "no endpoint"),
    ("ipc:///" + "x" * 103, "104 bytes"),
    ("ipc:///\ud800", "a path that no file can have"),
    ("tcp://127.0.0.1:99999", "no port from 1 to 65535"),
    ("tcp://127.0.0.1:0", "no port"),
    ("tcp://127.0.0.1:" + "1" * 5000, "no port"),
    ("tcp://127.0.0.1", "no port"),
    ("tcp://127.0.0.1:\u0665", "no port"),
    ("tcp://127.0.0.1:5570/x", "no port"),
    ("tcp://:5570", "no host"),
    ("tcp://a host:5570", "no host"),
    ("tcp://::1:5570", "no host"),
]


@pytest.mark.parametrize("endpoint", GOOD)
def test_what_is_allowed_can_be_connected_to(endpoint: str) -> None:
    assert endpoint_fault(endpoint) == ""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = dealer(context, endpoint, 1000)
    socket.connect(endpoint)
    socket.close(0)
    context.term()


@pytest.mark.parametrize(("endpoint", "why"), BAD, ids=repr)
def test_what_is_refused_is_named_with_what_is_allowed(endpoint: Any, why: str) -> None:
    fault = endpoint_fault(endpoint)
    assert why in fault
    assert repr(endpoint) in fault
    assert "allowed: " in fault
