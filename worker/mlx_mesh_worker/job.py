"""One attempt at a request, as the worker sees it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import DecodeError, Flag, InvalidRequestError, unpack_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_wire import messages
    from mlx_mesh_wire.body import Frame
    from mlx_mesh_worker.runner import Done


class Job:
    """A job in the hands of this worker; compared and hashed by identity.

    Attributes:
        id: job id of the newest attempt; changes when a new epoch adopts what is held.
        key: ``(session, request_id)``, which stays.
        deadline: in seconds of the worker's monotonic clock.
        credit: chunks that the reader has room for.
        alone: must have a step of its own.
        frames: body and buffers, undecoded.
        blocked: chunks wait for credit; an engine does well to compute something else meanwhile.
        state: what a stream goes on from, in the form that its op has for it; None if it begins. Only engines that say
            ``resumes`` see one.
        resumable: the client of this stream keeps what it was given. If not, a second attempt begins anew, and has to
            give the same chunks as the first one.
        seq: number of the next chunk.

    Args:
        message: as it came.
        frames: what came behind its header.
        now: in seconds of the worker's monotonic clock.
        resumes: whether the engine can go on from a state; if not, a state is left out and the stream begins anew.
    """

    __slots__ = (
        "accepted", "affinity", "alone", "attempt", "backlog", "credit", "deadline", "ended", "frames", "id", "key",
        "lane", "model", "op", "resumable", "seq", "started", "state", "stream", "traceparent",
    )  # fmt: skip

    def __init__(self, message: messages.Job, frames: Sequence[bytes], now: float, *, resumes: bool = False) -> None:
        self.id = message.job_id
        self.attempt = message.attempt
        self.key = (message.session, message.request_id)
        self.op = message.op
        self.model = message.model
        self.lane = message.lane
        self.accepted = now
        self.started = 0.0
        self.deadline = now + message.remaining_ms / 1000
        # The reader of a stream that goes on may have no room now.
        self.stream = message.window > 0 or message.seen > 0
        self.credit = message.window
        self.seq = 0
        self.resumable = self.stream and bool(message.flags & Flag.RESUMABLE)
        self.state: bytes | None = None
        if message.flags & Flag.RESUMED and len(frames) > 1:
            if resumes:
                self.state = frames[-1]
                self.seq = message.seen
            frames = frames[:-1]
        self.alone = bool(message.flags & Flag.ALONE)
        self.affinity = message.affinity
        self.traceparent = message.traceparent
        self.frames = frames
        self.backlog: deque[Sequence[Frame]] = deque()
        self.ended: Done | None = None

    @property
    def blocked(self) -> bool:
        """Whether chunks wait for the reader's credit."""
        return bool(self.backlog)

    def value(self, *, lenient_text: bool = False) -> Any:
        """Return the decoded body.

        Raises:
            InvalidRequestError: the body is not what the protocol allows.
        """
        try:
            return unpack_body(self.frames, lenient_text=lenient_text)
        except DecodeError as error:
            raise InvalidRequestError(error.message, details={"field": "body"}) from error
