"""The client for asyncio.

The socket's descriptor is registered with the event loop and drained without blocking; what calls want to send goes
out once per turn of the loop. ``zmq.asyncio`` would add a future and several callbacks to every message.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self, Unpack

from mlx_mesh import _readiness
from mlx_mesh._async_stream import AsyncStream
from mlx_mesh._generation import AsyncGeneration, Sampling, chat_call, generate_call
from mlx_mesh._link import Link
from mlx_mesh._options import (
    DEFAULT_TIMEOUT_S,
    WINDOW,
    Call,
    check_op,
    check_window,
    embed_bodies,
    options,
)
from mlx_mesh._pending import Pending
from mlx_mesh._results import Embeddings
from mlx_mesh._session import STATUS_OP, result_of
from mlx_mesh_wire import CancelledError, DeadlineExceededError, MeshError, limits, messages, pack_body

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

EMBED_CONCURRENCY = 16
"""Requests that one ``embed`` keeps under way: enough for several workers, and room for other calls of the client."""


class AsyncMesh:
    """A connection to the mesh, to be shared by the tasks of one event loop.

    Every call takes ``timeout`` (seconds), ``lane`` (``interactive``, ``standard`` or ``bulk``), ``model``,
    ``at_most_once`` and ``wait_for_ready``, and raises a :class:`MeshError` when there is no result. Cancelling a
    task cancels its call.

    Args:
        endpoint: ``ipc://PATH`` or ``tcp://HOST:PORT``; by default ``$MLX_MESH_ENDPOINT`` or the run directory's.
        keys: the file made by ``mlx-mesh keys add-client``; by default ``$MLX_MESH_KEYS``. Only for tcp endpoints.
    """

    def __init__(self, endpoint: str | None = None, *, keys: str | os.PathLike[str] | None = None) -> None:
        self._given = endpoint
        self._given_keys = keys
        self._link: Link | None = None
        self._closed = False
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every call that is under way and close the connection."""
        self._closed = True
        link = self._link
        if link is None or link.closed:
            return
        self._loop.remove_reader(link.fd)
        if self._timer is not None:
            self._timer.cancel()
        link.leave()
        # This may wait for the goodbye to be taken; the loop must not.
        await self._loop.run_in_executor(None, link.close)

    async def call(
        self,
        op: str,
        value: Any,
        *,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109  a deadline that travels with the request
        lane: str = "standard",
        at_most_once: bool = False,
        wait_for_ready: bool = False,
        affinity: str | bytes | None = None,
        cache: bool = True,
    ) -> Any:
        """Return the result of an op on a value made of what msgpack carries (and :class:`Tensor`)."""
        checked = options(
            model=model,
            timeout=timeout,
            lane=lane,
            at_most_once=at_most_once,
            wait_for_ready=wait_for_ready,
            cache=cache,
            affinity=affinity,
        )
        return result_of(await self._request(checked.call(check_op(op), pack_body(value))))

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool | None = None,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109  as above
        lane: str = "standard",
        at_most_once: bool = False,
        wait_for_ready: bool = False,
        cache: bool = True,
    ) -> Embeddings:
        """Return one vector for each text. Long lists go as several requests that run side by side.

        ``normalize`` makes the vectors one long, or does not; None does as the model's own folder says.
        """
        checked = options(
            model=model,
            timeout=timeout,
            lane=lane,
            at_most_once=at_most_once,
            wait_for_ready=wait_for_ready,
            cache=cache,
        )
        bodies = embed_bodies(texts, normalize)
        if len(bodies) == 1:
            return Embeddings([result_of(await self._request(checked.call("embed", bodies[0])))])
        gate = asyncio.Semaphore(EMBED_CONCURRENCY)
        until = time.monotonic() + checked.timeout_s

        async def one(body: Sequence[Any]) -> Any:
            async with gate:
                left = max(0.001, until - time.monotonic())
                return result_of(await self._request(checked.call("embed", body)._replace(timeout_s=left)))

        tasks = [asyncio.ensure_future(one(body)) for body in bodies]
        try:
            return Embeddings(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def stream(
        self,
        op: str,
        value: Any,
        *,
        window: int = WINDOW,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        lane: str = "standard",
        at_most_once: bool = False,
        wait_for_ready: bool = False,
        affinity: str | bytes | None = None,
    ) -> AsyncStream:
        """Return the chunks of an op as an asynchronous iterator; leaving it early cancels the call."""
        checked = options(
            model=model,
            timeout=timeout,
            lane=lane,
            at_most_once=at_most_once,
            wait_for_ready=wait_for_ready,
            affinity=affinity,
        )
        call = checked.call(check_op(op), pack_body(value), check_window(window))
        return AsyncStream(self, call)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        window: int = WINDOW,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        lane: str = "standard",
        at_most_once: bool = False,
        wait_for_ready: bool = False,
        **sampling: Unpack[Sampling],
    ) -> AsyncGeneration:
        """Return the text that continues a prompt (a text, or token ids), as it comes.

        Further keywords are those of :class:`Sampling`.
        """
        call = generate_call(
            prompt,
            sampling,
            window,
            model=model,
            timeout=timeout,
            lane=lane,
            at_most_once=at_most_once,
            wait_for_ready=wait_for_ready,
        )
        return AsyncGeneration(AsyncStream(self, call))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        window: int = WINDOW,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        lane: str = "standard",
        at_most_once: bool = False,
        wait_for_ready: bool = False,
        **sampling: Unpack[Sampling],
    ) -> AsyncGeneration:
        """Return the answer to a conversation, maps with ``role`` and ``content``, as it comes.

        ``tools`` are passed on to the model's chat template. Further keywords are those of :class:`Sampling`.
        """
        call = chat_call(
            messages,
            tools,
            sampling,
            window,
            model=model,
            timeout=timeout,
            lane=lane,
            at_most_once=at_most_once,
            wait_for_ready=wait_for_ready,
        )
        return AsyncGeneration(AsyncStream(self, call))

    async def status(self, *, timeout: float = 5.0) -> dict[str, Any]:  # noqa: ASYNC109  as above
        """Return the state of the mesh: epoch, workers, queues, limits."""
        checked = options(model=None, timeout=timeout, lane="standard", at_most_once=False, wait_for_ready=False)
        found: dict[str, Any] = result_of(await self._request(checked.call(STATUS_OP, ())))
        return found

    async def ready(self, ops: Iterable[str], *, timeout: float = 30.0) -> None:  # noqa: ASYNC109  as above
        """Return once each op has a warm worker.

        Raises:
            NoWorkerError: naming the ops that still lack one.
            DeadlineExceededError: no broker answered.
        """
        waiting = _readiness.Waiting(ops, timeout, time.monotonic())
        while True:
            try:
                status = await self.status(timeout=waiting.left(time.monotonic()))
            except DeadlineExceededError as error:
                raise waiting.unanswered(error) from None
            if waiting.satisfied(status, time.monotonic()):
                return
            await asyncio.sleep(_readiness.INTERVAL_S)

    def _open(self) -> Link:
        if self._link is None:
            if self._closed:
                raise CancelledError("this client is closed; make a new one")
            self._loop = asyncio.get_running_loop()
            self._link = Link(self._given, self._given_keys)
            self._loop.add_reader(self._link.fd, self._pump)
            self._schedule()
        return self._link

    def _begin(self, call: Call, done: Callable[..., None], piece: Callable[..., None] | None = None) -> Pending:
        link = self._link or self._open()
        link.check_usable()
        now = time.monotonic()
        pending = Pending(call, now + call.timeout_s, done, piece)
        link.session.start(now, pending)
        if len(link.session) == 1 and not self._flushing:
            self._pump()  # Nobody to share a bundle with: a turn of the loop would only be lost.
        elif len(link.session.outbox) >= limits.BUNDLE_MAX_MESSAGES:
            link.flush()  # A bundle is full: the broker can begin with it.
            self._schedule()
        else:
            self._schedule()
        return pending

    async def _request(self, call: Call) -> Sequence[bytes]:
        link = self._link or self._open()
        future: asyncio.Future[Sequence[bytes]] = self._loop.create_future()

        def done(outcome: messages.Final | MeshError, frames: Sequence[bytes]) -> None:
            if future.done():
                return
            if isinstance(outcome, MeshError):
                future.set_exception(outcome)
            else:
                future.set_result(frames)

        pending = self._begin(call, done)
        try:
            return await future
        except asyncio.CancelledError:
            link.session.cancel(pending)
            self._schedule()
            raise

    def _schedule(self) -> None:
        """Have everything that was said in this turn of the loop sent at its end."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._flushing = False
        link = self._link
        if link is None or link.closed or self._closed:
            return
        before = link.fd
        if link.pump():
            self._loop.remove_reader(before)
            self._loop.add_reader(link.fd, self._pump)
        if link.behind:
            self._schedule()
        self._arm(link)

    def _arm(self, link: Link) -> None:
        """Keep one timer for whatever the session has to do next; a later need is looked at when it fires."""
        due = link.session.next_tick()
        timer = self._timer
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._link is not None and not self._closed:
            self._link.session.tick(time.monotonic())
            self._pump()
