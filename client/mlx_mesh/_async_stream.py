"""What a task waits for, one by one: the chunks of a stream."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from mlx_mesh._session import result_of
from mlx_mesh_wire import CancelledError, MeshError, messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh._async import AsyncMesh
    from mlx_mesh._options import Call
    from mlx_mesh._pending import Pending


class AsyncStream:
    """Chunks as they come; afterwards :attr:`result` has the final value.

    Attributes:
        result: None before the end.
        left: the reader closed it before its end.
    """

    def __init__(self, mesh: AsyncMesh, call: Call) -> None:
        self._mesh = mesh
        self._call = call
        self._pending: Pending | None = None
        self._feed = _Feed()
        self._over = False
        self.left = False
        self.result: Any = None

    @property
    def moved(self) -> int:
        """How often it went on in another worker after chunks had come."""
        return self._pending.moved if self._pending is not None else 0

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __anext__(self) -> Any:
        feed = self._feed
        if self._pending is None and feed.outcome is None:
            self._pending = self._mesh._begin(self._call, feed.done, feed.piece)  # noqa: SLF001  one class in two
        while not feed.chunks and feed.outcome is None:
            feed.waiter = asyncio.get_running_loop().create_future()
            try:
                await feed.waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
        if feed.chunks:
            assert self._pending is not None  # noqa: S101  it has given something
            frames = feed.chunks.popleft()
            link = self._mesh._link  # noqa: SLF001  as above
            if link is not None and not link.closed:
                link.session.read(time.monotonic(), self._pending)
                self._mesh._schedule()  # noqa: SLF001  as above
            return result_of(frames)
        self._over = True
        if isinstance(feed.outcome, MeshError):
            raise feed.outcome
        self.result = result_of(feed.frames)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel the call if it has not ended."""
        if self._over:
            return
        self._over = self.left = True
        self._cancel()
        self._feed.chunks.clear()
        self._feed.outcome = CancelledError("the reader left the stream")

    def __del__(self) -> None:
        if self._pending is not None and not self._mesh._loop.is_closed():  # noqa: SLF001  as above
            self._cancel()

    def _cancel(self) -> None:
        link = self._mesh._link  # noqa: SLF001  as above
        if self._pending is None or self._feed.outcome is not None or link is None or link.closed:
            return
        link.session.cancel(self._pending)
        self._mesh._schedule()  # noqa: SLF001  as above


class _Feed:
    """What came for a stream. The session refers to this and not to the stream, so that a stream left behind ends."""

    __slots__ = ("chunks", "frames", "outcome", "waiter")

    def __init__(self) -> None:
        self.chunks: deque[Sequence[bytes]] = deque()
        self.frames: Sequence[bytes] = ()
        self.outcome: messages.Final | MeshError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def piece(self, frames: Sequence[bytes]) -> None:
        self.chunks.append(frames)
        self._notify()

    def done(self, outcome: messages.Final | MeshError, frames: Sequence[bytes]) -> None:
        self.outcome = outcome
        self.frames = frames
        self._notify()

    def _notify(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
