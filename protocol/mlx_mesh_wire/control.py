"""Sends operators' commands to the broker's control socket."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import zmq

from mlx_mesh_wire import (
    DeadlineExceededError,
    DecodeError,
    UnauthorizedError,
    decode_header,
    error_from_wire,
    pack_body,
    unpack_body,
)
from mlx_mesh_wire.endpoints import IPC, endpoint_fault
from mlx_mesh_wire.handshake import HandshakeWatch
from mlx_mesh_wire.header import encode_header
from mlx_mesh_wire.key_files import KeysError
from mlx_mesh_wire.keys import OPERATOR_VARIABLE, keys_of
from mlx_mesh_wire.messages import Command, Error, Final
from mlx_mesh_wire.paths import CONTROL_VARIABLE, ipc_endpoint
from mlx_mesh_wire.settings import SettingsError
from mlx_mesh_wire.transport import dealer
from mlx_mesh_wire.wrapping import unwrap, wrap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_mesh_wire.keys import PrivateKeys

LOOK_MS = 100
"""How often it is looked whether a broker at a tcp endpoint refuses the key."""

_ID = 1
"""One command for each connection, so one id is enough."""


def command(name: str, arguments: Mapping[str, Any], *, timeout: float = 5.0, endpoint: str = "") -> Any:
    """Run a command (``ping``, ``status``, ``drain``, ``config``) on a broker.

    Args:
        name: the command.
        arguments: its arguments.
        timeout: seconds to wait for the answer.
        endpoint: its control endpoint, by default that of the run directory; a tcp one needs the operator's keys, which
            are in the file ``$MLX_MESH_CONTROL_KEYS``.

    Raises:
        MeshError: what the broker answered; UnauthorizedError when it refused the keys, DeadlineExceededError when it
            did not answer.
        SettingsError: the endpoint or the file of keys cannot be used.
    """
    endpoint = endpoint or ipc_endpoint("control")
    keys = _operator_keys(endpoint)
    socket = dealer(zmq.Context.instance(), endpoint, LOOK_MS, keys)
    watch = HandshakeWatch(socket, endpoint, keys) if keys is not None else None
    try:
        socket.connect(endpoint)
        asked = [encode_header(Command(_ID, name)), *pack_body(dict(arguments))]
        with suppress(zmq.Again):  # It was refused already, as the watch will tell; to wait would be to wait for ever.
            socket.send_multipart(asked if keys is None else [wrap(asked)], zmq.DONTWAIT)
        if not _answered(socket, watch, time.monotonic() + timeout):
            raise DeadlineExceededError(f"the broker did not answer {name!r} within {timeout:g} s")
        frames = socket.recv_multipart() if keys is None else unwrap(socket.recv())
    finally:
        if watch is not None:
            watch.close()
        socket.close(0)
    match decode_header(frames[0]):
        case Final():
            return unpack_body(frames[1:])
        case Error(_, code, message, retryable, retry_after_ms):
            details = unpack_body(frames[1:]) if len(frames) > 1 else None
            raise error_from_wire(code, message, retryable, retry_after_ms, details)
        case other:
            raise DecodeError(f"the broker answered {name!r} with {type(other).__name__}")


def _answered(socket: zmq.Socket[bytes], watch: HandshakeWatch | None, until: float) -> bool:
    while (left_s := until - time.monotonic()) > 0:
        if socket.poll(math.ceil(min(left_s * 1000, LOOK_MS) if watch is not None else left_s * 1000)):
            return True
        if watch is not None and (fault := watch.fault(time.monotonic())):
            raise UnauthorizedError(fault)
    return False


def _operator_keys(endpoint: str) -> PrivateKeys | None:
    if endpoint.startswith(IPC):
        return None
    if fault := endpoint_fault(endpoint):
        raise SettingsError(f"{CONTROL_VARIABLE}: {fault}")
    path = os.environ.get(OPERATOR_VARIABLE, "")
    if not path:
        raise KeysError(f"{OPERATOR_VARIABLE} is not set, and {endpoint} needs a key; see: mlx-mesh keys add-operator")
    return keys_of("operator", path, OPERATOR_VARIABLE, "see: mlx-mesh keys add-operator")
