"""A client's connection, by itself, to a bare ROUTER."""

from __future__ import annotations

from pathlib import Path

import zmq

from mlx_mesh._link import Link
from mlx_mesh_wire import encode_header, messages
from tests.live import live_mesh, until

DEPTH = 2000
"""More than Python lets calls be nested."""


def nested(depth: int) -> list[bytes]:
    """Return a BUNDLE with one in it, with one in it."""
    header, payload = encode_header(messages.Pong(1)), b""
    for _ in range(depth):
        header, payload = encode_header(messages.Bundle([len(header), len(payload)])), header + payload
    return [header, payload]


def test_bundles_inside_one_another_do_not_take_the_whole_stack() -> None:
    with live_mesh() as mesh, zmq.Context() as context, context.socket(zmq.ROUTER) as broker:
        broker.linger = 0
        endpoint = f"ipc://{Path(mesh.dir)}/bare.sock"
        broker.bind(endpoint)
        link = Link(endpoint)
        link.pump()
        route = until(lambda: broker.poll(100) and broker.recv_multipart())[0]
        broker.send_multipart([route, *nested(DEPTH)])
        welcome = messages.Welcome(1, 0, "epoch", {}, {})
        broker.send_multipart([route, encode_header(welcome)])

        def welcomed() -> bool:
            link.pump()
            return link.session.welcomed

        assert until(welcomed)
        link.close()
