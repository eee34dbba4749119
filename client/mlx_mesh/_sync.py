"""The client for threads: blocking calls over one connection.

A thread in the background takes in what arrives; whoever calls sends by itself, which saves a change of threads. The
lock is never held while waiting.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self, Unpack

from mlx_mesh import _readiness
from mlx_mesh._generation import Generation, Sampling, chat_call, generate_call
from mlx_mesh._link import Link
from mlx_mesh._options import DEFAULT_TIMEOUT_S, WINDOW, Call, check_op, check_window, embed_bodies, options
from mlx_mesh._results import Embeddings
from mlx_mesh._session import STATUS_OP, result_of
from mlx_mesh._stream import GRACE_S, Stream, Waiter
from mlx_mesh_wire import DeadlineExceededError, pack_body
from mlx_mesh_wire.sleeper import Sleeper
from mlx_mesh_wire.wake import Wake

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from mlx_mesh._pending import Pending

EMBED_CONCURRENCY = 16
"""Requests that one ``embed`` keeps under way: enough for several workers, and room for other calls of the client."""


class Mesh:
    """A connection to the mesh, safe to share between threads.

    Every call takes ``timeout`` (seconds), ``lane`` (``interactive``, ``standard`` or ``bulk``), ``model``,
    ``at_most_once`` and ``wait_for_ready``, and raises a :class:`MeshError` when there is no result.

    Args:
        endpoint: ``ipc://PATH`` or ``tcp://HOST:PORT``; by default ``$MLX_MESH_ENDPOINT`` or the run directory's.
        keys: the file made by ``mlx-mesh keys add-client``; by default ``$MLX_MESH_KEYS``. Only for tcp endpoints.
    """

    def __init__(self, endpoint: str | None = None, *, keys: str | os.PathLike[str] | None = None) -> None:
        self._link = Link(endpoint, keys)
        self._lock = threading.Lock()
        self._wake = Wake()
        self._sleeps_until = 0.0
        self._thread = threading.Thread(target=self._serve, name="mlx-mesh", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every call that is under way and close the connection; may be called twice."""
        with self._lock:
            if self._link.closed:
                return
            self._link.close()
        self._wake.set()
        self._thread.join(GRACE_S)
        self._wake.close()

    def call(
        self,
        op: str,
        value: Any,
        *,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
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
        return result_of(self._request(checked.call(check_op(op), pack_body(value))))

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool | None = None,
        model: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
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
        until = time.monotonic() + checked.timeout_s
        waiting: list[Waiter] = []
        parts: list[dict[str, Any]] = []
        try:
            for body in bodies:
                if len(waiting) - len(parts) >= EMBED_CONCURRENCY:
                    parts.append(result_of(waiting[len(parts)].result()))
                left = max(0.001, until - time.monotonic())
                waiting.append(self._start(checked.call("embed", body)._replace(timeout_s=left)))
            parts += [result_of(waiter.result()) for waiter in waiting[len(parts) :]]
        finally:
            for waiter in waiting[len(parts) :]:
                self._cancel(waiter.pending)
        return Embeddings(parts)

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
    ) -> Stream:
        """Return the chunks of an op as an iterator; closing it early cancels the call."""
        checked = options(
            model=model,
            timeout=timeout,
            lane=lane,
            at_most_once=at_most_once,
            wait_for_ready=wait_for_ready,
            affinity=affinity,
        )
        return Stream(self, self._start(checked.call(check_op(op), pack_body(value), check_window(window))))

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
    ) -> Generation:
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
        return Generation(Stream(self, self._start(call)))

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
    ) -> Generation:
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
        return Generation(Stream(self, self._start(call)))

    def status(self, *, timeout: float = 5.0) -> dict[str, Any]:
        """Return the state of the mesh: epoch, workers, queues, limits."""
        checked = options(model=None, timeout=timeout, lane="standard", at_most_once=False, wait_for_ready=False)
        found: dict[str, Any] = result_of(self._request(checked.call(STATUS_OP, ())))
        return found

    def ready(self, ops: Iterable[str], *, timeout: float = 30.0) -> None:
        """Return once each op has a warm worker.

        Raises:
            NoWorkerError: naming the ops that still lack one.
            DeadlineExceededError: no broker answered.
        """
        waiting = _readiness.Waiting(ops, timeout, time.monotonic())
        while True:
            try:
                status = self.status(timeout=waiting.left(time.monotonic()))
            except DeadlineExceededError as error:
                raise waiting.unanswered(error) from None
            if waiting.satisfied(status, time.monotonic()):
                return
            time.sleep(_readiness.INTERVAL_S)

    def _request(self, call: Call) -> Sequence[bytes]:
        waiter = self._start(call)
        try:
            return waiter.result()
        except BaseException:
            self._cancel(waiter.pending)
            raise

    def _start(self, call: Call) -> Waiter:
        now = time.monotonic()
        waiter = Waiter(call, now)
        # Before the lock too: in a forked child, the thread that held it may be missing.
        self._link.check_usable()
        with self._lock:
            self._link.check_usable()
            self._link.session.start(now, waiter.pending)
            self._pump()
        return waiter

    def _cancel(self, pending: Pending) -> None:
        if pending.ended:
            return
        with self._lock:
            if not self._link.closed:
                self._link.session.cancel(pending)
                self._pump()

    def _read(self, pending: Pending) -> None:
        with self._lock:
            if not self._link.closed:
                self._link.session.read(time.monotonic(), pending)
                self._pump()

    def _pump(self) -> None:
        """Send and receive, with the lock held; wake the thread if it would sleep too long or on an old socket."""
        renewed = self._link.pump()
        if renewed or self._link.behind or self._link.session.next_tick() < self._sleeps_until:
            self._wake.set()

    def _serve(self) -> None:
        link = self._link
        while True:
            with self._lock:  # Outside it the socket may be closed between the look and the registration.
                if not self._alive():
                    return
                descriptor = link.fd
                sleeper = Sleeper([descriptor, self._wake.fd])
            with sleeper:
                while self._alive() and link.fd == descriptor:
                    self._turn(sleeper)

    def _alive(self) -> bool:
        return not self._link.closed

    def _turn(self, sleeper: Sleeper) -> None:
        link = self._link
        with self._lock:
            if link.closed:
                return
            now = time.monotonic()
            due = link.session.next_tick()
            if due <= now:
                link.session.tick(now)
            if link.pump() or link.behind:
                return
            self._sleeps_until = link.session.next_tick()
        if self._wake.fd in sleeper.sleep(max(0.0, self._sleeps_until - time.monotonic())):
            self._wake.clear()
