"""The control sockets: commands in, their answers out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import zmq

from mlx_mesh_broker.core.keyed import NOT_AUTHORISED
from mlx_mesh_broker.core.quotas import STRANGER
from mlx_mesh_broker.inlets import BATCH, TURN_S
from mlx_mesh_wire import DecodeError, decode_header, encode_header, limits
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.messages import Command, Error
from mlx_mesh_wire.transport import RefusedMessage, receiver, sender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.control import Control
    from mlx_mesh_broker.doors import Door, Doors
    from mlx_mesh_broker.inlets import Receive


class Operators:
    """Serves operators on the control socket and, if there is one, by their door.

    Args:
        socket: of those without keys.
        control: carries commands out.
        doors: of those with keys.
        now: tells the time that the core goes by.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], control: Control, doors: Doors | None, now: Callable[[], float]
    ) -> None:
        self._control = control
        self._now = now
        self._send = sender(socket)
        self._inlets: list[tuple[Receive, Door | None]] = [(receiver(socket, routed=True), None)]
        door = None if doors is None else doors.by_role.get("operator")
        if door is not None:
            self._send = door.beside(self._send)
            self._inlets.append((door.receive, door))

    def serve(self) -> bool:
        """Answer a batch of commands; True if there may be more, of which the descriptors do not tell again."""
        more = False
        for receive, door in self._inlets:
            more = self._serve(receive, door) or more
        return more

    def _serve(self, receive: Receive, door: Door | None) -> bool:
        until = time.monotonic() + TURN_S
        for _ in range(BATCH):
            if time.monotonic() >= until:
                break
            try:
                frames = receive()
                if frames is None:
                    return False
                message = decode_header(frames[1])
            except RefusedMessage as refused:
                self._reply(refused.first, Error(0, refused.code, refused.reason, False, 0))
                continue
            except DecodeError as error:
                text = error.message[: limits.ERROR_MESSAGE_MAX_CHARS]
                self._reply(frames[0], Error(0, "PROTOCOL_ERROR", text, False, 0))  # type: ignore[index]
                continue
            if isinstance(message, Command) and door is not None and door.holder is STRANGER:
                self._reply(frames[0], Error(message.id, "UNAUTHORIZED", NOT_AUTHORISED, False, 0))
            elif isinstance(message, Command):
                self._reply(frames[0], *self._control.answer(self._now(), message, frames[2:]))
        return True

    def _reply(self, route: bytes, message: Any, body: Sequence[Any] = ()) -> None:
        try:
            self._send([route, encode_header(message), *body])
        except zmq.ZMQError:
            log("debug", "operator_gone", route=route.hex())
