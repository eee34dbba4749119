"""What a thread waits for: the answer of a call, or the chunks of a stream one by one."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from mlx_mesh._pending import Pending
from mlx_mesh._session import result_of
from mlx_mesh_wire import CancelledError, InternalError, MeshError, messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_mesh._options import Call
    from mlx_mesh._sync import Mesh

GRACE_S = 5.0
"""How long beyond its deadline a call waits for the background thread to say so; it never should."""

Item = tuple["messages.Final | MeshError | None", "Sequence[bytes]"]


class Waiter:
    """A call that a thread waits for."""

    def __init__(self, call: Call, now: float) -> None:
        self.items: SimpleQueue[Item] = SimpleQueue()
        piece = self._piece if call.window else None
        self.pending = Pending(call, now + call.timeout_s, self._done, piece)

    def result(self) -> Sequence[bytes]:
        """Return the frames of the FINAL, or raise its error."""
        outcome, frames = self.next()
        if isinstance(outcome, MeshError):
            raise outcome
        return frames

    def next(self) -> Item:
        """Return the next chunk (None with its frames) or the outcome."""
        left = max(0.0, self.pending.due - time.monotonic())
        try:
            return self.items.get(timeout=left + GRACE_S)
        except Empty:
            raise InternalError("the client's background thread does not answer") from None

    def _done(self, outcome: messages.Final | MeshError, frames: Sequence[bytes]) -> None:
        self.items.put((outcome, frames))

    def _piece(self, frames: Sequence[bytes]) -> None:
        self.items.put((None, frames))


class Stream:
    """Chunks as they come; afterwards :attr:`result` has the final value. Use it in a ``with`` to leave early.

    Attributes:
        result: None before the end.
        left: the reader closed it before its end.
    """

    def __init__(self, mesh: Mesh, waiter: Waiter) -> None:
        self._mesh = mesh
        self._waiter = waiter
        self._ended: MeshError | None = None
        self._over = False
        self.left = False
        self.result: Any = None

    @property
    def moved(self) -> int:
        """How often it went on in another worker after chunks had come."""
        return self._waiter.pending.moved

    def __iter__(self) -> Iterator[Any]:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __next__(self) -> Any:
        if self._over:
            if self._ended is not None:
                raise self._ended
            raise StopIteration
        try:
            outcome, frames = self._waiter.next()
        except BaseException:
            self.close()
            raise
        if outcome is None:
            self._mesh._read(self._waiter.pending)  # noqa: SLF001  one class in two
            return result_of(frames)
        self._over = True
        if isinstance(outcome, MeshError):
            self._ended = outcome
            raise outcome
        self.result = result_of(frames)
        raise StopIteration

    def close(self) -> None:
        """Cancel the call if it has not ended."""
        if not self._over:
            self._over = self.left = True
            self._ended = CancelledError("the reader left the stream")
            self._mesh._cancel(self._waiter.pending)  # noqa: SLF001  as above
