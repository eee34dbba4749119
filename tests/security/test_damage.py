"""What a client with keys does about answers that were damaged on their way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zmq

from mlx_mesh import Mesh
from mlx_mesh_wire import decode_header, encode_header, messages, pack_body
from mlx_mesh_wire.bundle import opened
from mlx_mesh_wire.keys import PrivateKeys, write_private
from mlx_mesh_wire.transport import KEY_BYTES, new_pair, unwrapping, wrapping


class Broker:
    """As much of one as greets a client and sees its requests; the frames of its answers are what they are made."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], secret: str) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.set(zmq.CURVE_SERVER, 1)
        self.socket.set(zmq.CURVE_SECRETKEY, secret.encode())
        self.endpoint = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._receive, self._send = unwrapping(self.socket, routed=True), wrapping(self.socket, routed=True)

    def request(self) -> tuple[bytes, messages.Request]:
        """Welcome whoever says HELLO, and return the next request with its route."""
        while True:
            assert self.socket.poll(30_000), "no request came"
            named, header, *frames = self._receive() or [b"", b""]
            route = named[KEY_BYTES:]
            message = decode_header(header)
            inside = opened(message, frames) if isinstance(message, messages.Bundle) else [[header, *frames]]
            for each in map(decode_header, (parts[0] for parts in inside)):
                if isinstance(each, messages.Hello):
                    self._send([route, encode_header(messages.Welcome(1, 0, "one", {}, {}))])
                elif isinstance(each, messages.Request):
                    return route, each

    def answer(self, route: bytes, request: messages.Request, answer: str) -> None:
        self._send([route, encode_header(messages.Final(request.request_id, 1, 0, 0, 0)), *pack_body(answer)])


def test_an_answer_that_is_no_message_is_asked_for_again_on_another_connection(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    (server, secret), own = new_pair(), new_pair()
    write_private(tmp_path / "alice.key", PrivateKeys("client", "alice", *own, server))
    broker = Broker(context, secret)
    try:
        with Mesh(broker.endpoint, keys=tmp_path / "alice.key") as mesh, ThreadPoolExecutor(1) as threads:
            called = threads.submit(mesh.call, "echo", "x", timeout=60)
            route, asked = broker.request()
            for damaged in ([b"a whole message", b"and the next"], [b"\x02 sizes that do not fit"], [b""]):
                broker.socket.send_multipart([route, *damaged])
                before, (route, again) = route, broker.request()
                assert asked.request_id == again.request_id
                assert before != route
            broker.answer(route, asked, "as it should be")
            assert "as it should be" == called.result(60)
    finally:
        context.destroy(0)
