"""Receiving: messages from one socket to events for the core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mlx_mesh_broker.core import events
from mlx_mesh_wire import limits
from mlx_mesh_wire.bundle import deliver
from mlx_mesh_wire.header import salvage_request_id
from mlx_mesh_wire.transport import RefusedMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh_broker.doors import Door
    from mlx_mesh_wire import DecodeError

    Receive = Callable[[], list[bytes] | None]

BATCH = 64
TURN_S = 0.01
"""Messages taken from one socket, and the time that this may take, before the others get their turn: a message may have
64 MiB, or be the tenth part of a millisecond's work.
"""


class Kind(NamedTuple):
    """What comes by a socket: events of good messages, and of bad ones (route, reason, request id, code)."""

    good: Callable[..., events.Event]
    bad: Callable[[bytes, str, int, str], events.Event]


FROM_CLIENTS = Kind(events.FromClient, events.BadClientMessage)
FROM_WORKERS = Kind(events.FromWorker, lambda route, reason, *_: events.BadWorkerMessage(route, reason))


def held(door: Door, kind: Kind) -> Kind:
    """Return a kind whose events of good messages also tell whose the one is that came last by a door."""
    good = kind.good
    return kind._replace(good=lambda route, message, frames: good(route, message, frames, door.holder))


class Inlet:
    """A socket whose messages go to the core.

    Args:
        receive: returns a message without blocking, None when there is none.
        kind: what comes by it.
        feed: hands an event to the core.
        post: sends what the core has decided.
    """

    def __init__(
        self, receive: Receive, kind: Kind, feed: Callable[[events.Event], None], post: Callable[[], None]
    ) -> None:
        good, bad = kind
        self._receive = receive
        self._bad = bad
        self._feed = feed
        self._hear = lambda route, message, frames: feed(good(route, message, frames))
        self._post = post

    def drain(self) -> int:
        """Take a batch; return how many messages there were."""
        taken = posted = 0
        clock, receive = time.monotonic, self._receive
        until = clock() + TURN_S
        while taken < BATCH and (clock() < until or not taken):
            try:
                frames = receive()
            except RefusedMessage as refused:
                self._refuse(refused.first, refused.reason, refused.header, refused.code)
                taken += 1
                continue
            if frames is None:
                break
            taken += deliver(frames.pop(0), frames, self._hear, self._refuse_unread)
            if taken >= posted + limits.BUNDLE_MAX_MESSAGES:
                posted = taken
                self._post()
        return taken

    def _refuse_unread(self, route: bytes, error: DecodeError, header: bytes) -> None:
        self._refuse(route, error.message, header, "PROTOCOL_ERROR")

    def _refuse(self, route: bytes, reason: str, header: bytes, code: str) -> None:
        self._feed(self._bad(route, reason, salvage_request_id(header), code))
