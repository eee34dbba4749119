"""Answers for clients that do not read fast enough, kept within a bound."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_wire.body import Frame

RETRY_S = 0.005
"""How often a full connection is tried again."""

MESSAGE_BYTES = 256
"""What keeping a message takes besides its frames; without it a flood of tiny ones would cost many times the bound."""


class Outbox:
    """Messages that ZeroMQ would not take, by route, in order."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: dict[bytes, deque[Sequence[Frame]]] = {}
        self._bytes: dict[bytes, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, route: bytes) -> bool:
        return route in self._waiting

    def keep(self, route: bytes, frames: Sequence[Frame]) -> bool:
        """Keep a message; False if that is too much, and then everything for this route is dropped.

        A message that waits alone is kept whatever its size, which the protocol bounds.
        """
        size = self._bytes.get(route, 0) + _cost(frames)
        if size > self._max_bytes and route in self._waiting:
            self.drop(route)
            return False
        self._waiting.setdefault(route, deque()).append(frames)
        self._bytes[route] = size
        return True

    def drop(self, route: bytes) -> None:
        """Forget a route."""
        self._waiting.pop(route, None)
        self._bytes.pop(route, None)

    def retry(self, send: Callable[[bytes, Sequence[Frame]], bool]) -> None:
        """Try to send what waits, by ``send(route, frames)`` that says whether it went; it may drop the route."""
        for route in list(self._waiting):
            queue = self._waiting[route]
            while queue and send(route, queue[0]) and route in self._waiting:
                self._bytes[route] -= _cost(queue.popleft())
            if not queue:
                self.drop(route)


def _cost(frames: Sequence[Frame]) -> int:
    return MESSAGE_BYTES + sum(map(len, frames))
