"""A call that has no answer yet, and how far its reader is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_mesh._received import Received
from mlx_mesh_wire import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh._options import Call
    from mlx_mesh_wire import MeshError, messages

CREDIT_AFTER_S: Final = 1.0
"""A slow reader grants credit for what it has read at least this often; a quick one grants half a window at a time."""


class Pending:
    """A call between its start and its answer.

    Attributes:
        due: its deadline.
        done: called once, with the FINAL and its frames or with the error.
        piece: called for each chunk of a stream.
        sent: the broker may know it: a REQUEST went out that no RESET said was dropped.
        on_wire: it was sent on the connection of now.
        ended: it has its answer.
        next_seq: chunks that came.
        incomplete: a chunk was missing and has been asked for, since that time; 0 if none is missing.
        received: what the reader of a stream has, if another worker can go on from there; else None.
        moved: how often it went on elsewhere after chunks had come.
    """

    __slots__ = (
        "_granted", "_granted_at", "_taken", "call", "done", "due", "ended", "id", "incomplete", "moved", "next_seq",
        "on_wire", "piece", "received", "retries", "sent",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        due: float,
        done: Callable[[messages.Final | MeshError, Sequence[bytes]], None],
        piece: Callable[[Sequence[bytes]], None] | None,
    ) -> None:
        self.call = call
        self.due = due
        self.done = done
        self.piece = piece
        self.id = 0
        self.retries = 0
        self.next_seq = 0
        self.sent = False
        self.on_wire = False
        self.ended = False
        self.incomplete = 0.0
        self.received = Received() if piece is not None and call.flags & Flag.RESUMABLE else None
        self.moved = 0
        self._taken = 0
        self._granted = call.window
        self._granted_at = 0.0

    @property
    def at_most_once(self) -> bool:
        """Whether it must never run a second time."""
        return bool(self.call.flags & Flag.AT_MOST_ONCE)

    def take(self, now: float) -> int:
        """Count a chunk that the reader took; return the credit to grant for it and those before, often 0."""
        self._taken += 1
        self._granted_at = self._granted_at or now
        owed = self._taken + self.call.window - self._granted
        if owed * 2 < self.call.window and now - self._granted_at < CREDIT_AFTER_S:
            return 0
        self._granted += owed
        self._granted_at = now
        return owed

    def room(self) -> int:
        """Return the chunks that the reader has room for, all granted anew: what was granted before counts no more."""
        self._granted = max(self._taken + self.call.window, self.next_seq)
        return self._granted - self.next_seq
