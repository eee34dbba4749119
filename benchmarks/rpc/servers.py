"""The echo services of the peers, one process each: ``python -m benchmarks.rpc.servers KIND ADDRESS...``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable


def nats_worker(url: str) -> None:
    """Answer requests as one member of a queue group."""
    import nats
    from nats.aio.msg import Msg

    async def serve() -> None:
        connection = await nats.connect(url)

        async def echo(message: Msg) -> None:
            await message.respond(message.data)

        await connection.subscribe("echo", "workers", cb=echo)
        await connection.flush()
        await asyncio.Event().wait()

    asyncio.run(serve())


def zmq_proxy(front: str, back: str) -> None:
    """Run libzmq's own proxy between a ROUTER for clients and a DEALER for workers."""
    import zmq

    context = zmq.Context()
    frontend, backend = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    frontend.bind(front)
    backend.bind(back)
    zmq.proxy(frontend, backend)


def zmq_worker(back: str) -> None:
    """Send back every message that comes, at the lowest cost that pyzmq allows."""
    import zmq

    from mlx_mesh_wire.transport import receiver, sender

    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(back)
    receive, send = receiver(socket), sender(socket)
    while True:
        socket.poll()
        while (frames := receive()) is not None:
            send(frames)


def zerorpc_worker(endpoint: str) -> None:
    """Serve ``echo`` without heartbeats, which would cost a timer for every call."""
    import zerorpc

    server = zerorpc.Server({"echo": lambda value: value}, heartbeat=None)
    server.bind(endpoint)
    server.run()


KINDS: dict[str, Callable[..., None]] = {
    "nats": nats_worker,
    "proxy": zmq_proxy,
    "zmq": zmq_worker,
    "zerorpc": zerorpc_worker,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](*sys.argv[2:])
