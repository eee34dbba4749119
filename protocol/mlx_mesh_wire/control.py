"""Sends operators' commands to the broker's control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zmq

from mlx_mesh_wire import DeadlineExceededError, DecodeError, decode_header, error_from_wire, pack_body, unpack_body
from mlx_mesh_wire.header import encode_header
from mlx_mesh_wire.messages import Command, Error, Final
from mlx_mesh_wire.paths import ipc_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

_ID = 1
"""One command for each connection, so one id is enough."""


def command(name: str, arguments: Mapping[str, Any], *, timeout: float = 5.0) -> Any:
    """Run a command (``ping``, ``status``, ``drain``, ``config``) on the broker of this run directory.

    Args:
        name: the command.
        arguments: its arguments.
        timeout: seconds to wait for the answer.

    Raises:
        MeshError: what the broker answered; DeadlineExceededError when it did not.
    """
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.connect(ipc_endpoint("control"))
        socket.send_multipart([encode_header(Command(_ID, name)), *pack_body(dict(arguments))])
        if not socket.poll(round(timeout * 1000)):
            raise DeadlineExceededError(f"the broker did not answer {name!r} within {timeout:g} s")
        frames = socket.recv_multipart()
    finally:
        socket.close()
    match decode_header(frames[0]):
        case Final():
            return unpack_body(frames[1:])
        case Error(_, code, message, retryable, retry_after_ms):
            details = unpack_body(frames[1:]) if len(frames) > 1 else None
            raise error_from_wire(code, message, retryable, retry_after_ms, details)
        case other:
            raise DecodeError(f"the broker answered {name!r} with {type(other).__name__}")
