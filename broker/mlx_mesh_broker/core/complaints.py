"""Telling peers that they break the protocol, seldom enough that a flood of garbage is not answered by another."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from mlx_mesh_wire import limits
from mlx_mesh_wire.messages import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh_broker.core.actions import Action
    from mlx_mesh_broker.core.state import State
    from mlx_mesh_wire.messages import Message

INTERVAL_S: Final = 1.0
"""One peer hears at most one complaint in this time; the specification's rule."""

ROUTES_MAX: Final = 1024
"""Peers whose last complaint is remembered."""


class Complaints:
    """The complaints of one socket.

    Args:
        state: the core's tables.
        event: name of the log line, written once for each complaint.
        send: makes the action that sends a message to a route of this socket.
        code: what the peer is told.
    """

    def __init__(
        self,
        state: State,
        event: str,
        send: Callable[[bytes, Message, tuple[()]], Action],
        code: str = "PROTOCOL_ERROR",
    ) -> None:
        self._state = state
        self._event = event
        self._send = send
        self._code = code
        self._last: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def complain(self, route: bytes, reason: str) -> None:
        """Send the error, unless this peer was told so within the interval."""
        state = self._state
        if state.now - self._last.get(route, -INTERVAL_S) < INTERVAL_S:
            return
        self._last[route] = state.now
        self._last.move_to_end(route)
        if len(self._last) > ROUTES_MAX:
            self._last.popitem(last=False)
        error = Error(0, self._code, reason[: limits.ERROR_MESSAGE_MAX_CHARS], False, 0)
        state.out.append(self._send(route, error, ()))
        state.log("warning", self._event, route=route.hex(), reason=reason)
