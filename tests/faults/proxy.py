"""A TCP proxy that does to connections what networks do: delay, thin, cut, swallow, damage and reset them.

It runs in a thread of its own and forwards to a TCP port or to an ipc path, so that clients of an ipc mesh can be put
behind it, too. What it does is set live, for each direction by itself::

    with Proxy("ipc:///run/frontend.sock") as proxy:
        client = Mesh(proxy.endpoint)
        proxy.down.latency_s = 0.2   # answers take longer
        proxy.reset()                # every connection gets a RST
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

READ_BYTES = 16_384
QUEUED_MAX = 256
"""Reads of one direction that wait for their time: enough for the latencies used here, and no growth without end."""

SLICE_PAUSE_S = 0.0005
"""Between two slices, so that each is a segment of its own."""


@dataclass
class Toxics:
    """What happens to the bytes of one direction. Nought and False: nothing. Changes act on the next bytes.

    Attributes:
        latency_s: each byte comes so much later.
        jitter_s: and up to so much later still; the order is kept.
        rate_bytes_s: no more bytes in a second.
        slice_bytes: they come in pieces of this size.
        swallow: they vanish and both ends stay open. A connection that has lost bytes loses all that follow.
        cut_after_bytes: both ends are closed once a connection has carried so many this way.
        corrupt_every_bytes: about one byte in so many is another.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    rate_bytes_s: float = 0.0
    slice_bytes: int = 0
    swallow: bool = False
    cut_after_bytes: int = 0
    corrupt_every_bytes: int = 0

    def clear(self) -> None:
        """Have everything pass again."""
        self.__init__()  # type: ignore[misc]


class Proxy:
    """Listens on a free loopback port and forwards to a target, ``tcp://HOST:PORT`` or ``ipc:///PATH``.

    Attributes:
        up: what happens to bytes on their way to the target.
        down: and to those on their way back.
        stall: connections are accepted, and nothing is ever done with them.
        endpoint: where it listens.
        accepted: how many connections there were.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        self.up, self.down = Toxics(), Toxics()
        self.stall = False
        self.accepted = 0
        self._target = target
        self._chance = random.Random(seed)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="fault proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self.close()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._links)

    @property
    def numb(self) -> int:
        """How many of them have lost bytes, and carry nothing more."""
        return sum(link.is_numb for link in [*self._links])

    def clear(self) -> None:
        """Have everything pass again; connections that have lost bytes stay lost."""
        self.up.clear()
        self.down.clear()
        self.stall = False

    def reset(self) -> None:
        """End every connection, on both sides, by a RST."""
        self._run(self._reset())

    def half_open(self) -> None:
        """Have every connection of now carry nothing more, while both ends take it to be open."""
        self._run(self._numb())

    def close(self) -> None:
        """End every connection and stop listening."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _reset(self) -> None:
        links = [*self._links]
        for link in links:
            link.close(rst=True)
        for link in links:
            await link.released.wait()

    async def _numb(self) -> None:
        for link in self._links:
            link.numb()

    def _main(self) -> None:
        self._loop.add_reader(self._listener, self._accept)
        self._loop.run_forever()
        self._loop.remove_reader(self._listener)
        for task in self._tasks:
            task.cancel()
        while self._tasks:  # Some end others, and wait for these.
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._listener.close()
        self._loop.close()

    def _spawn(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:  # Whoever came is gone.
            return
        near.setblocking(False)
        self.accepted += 1
        serving = self._spawn(self._serve(near))
        serving.add_done_callback(lambda _, near=near: near.close())  # Even if it was cancelled before it began.

    async def _serve(self, near: socket.socket) -> None:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(near)
        flows = []
        try:
            if not self.stall:
                far = await self._dial(link)
                flows.append(self._spawn(self._flow(link, near, far, self.up)))
                flows.append(self._spawn(self._flow(link, far, near, self.down)))
            self._links.add(link)
            await link.closed.wait()
        except OSError:
            pass  # Nobody listens at the target.
        finally:
            await _ended(*flows)
            link.release()
            self._links.discard(link)

    async def _dial(self, link: _Link) -> socket.socket:
        parts = urlsplit(self._target)
        if parts.scheme == "ipc":
            far, address = socket.socket(socket.AF_UNIX), parts.path
        else:
            far, address = socket.socket(), (parts.hostname, parts.port)  # type: ignore[assignment]
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setblocking(False)
        link.ends.append(far)
        await self._loop.sock_connect(far, address)
        return far

    async def _flow(self, link: _Link, source: socket.socket, sink: socket.socket, toxics: Toxics) -> None:
        """Carry one direction of a connection until either end closes it."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_MAX)
        writer = self._spawn(self._write(link, sink, toxics, queue))
        due = 0.0
        try:
            while data := await self._loop.sock_recv(source, READ_BYTES):
                late_s = toxics.latency_s + self._chance.uniform(0, toxics.jitter_s)
                due = max(due, self._loop.time() + late_s)
                await queue.put((due, data))
            await queue.put((due, b""))
            await writer
        except OSError:
            if not link.is_numb:
                link.close()
        finally:
            await _ended(writer)

    async def _write(
        self, link: _Link, sink: socket.socket, toxics: Toxics, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        carried = 0
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if toxics.swallow:
                link.numb()
            if link.is_numb:
                continue
            last = not data
            if toxics.cut_after_bytes and carried + len(data) >= toxics.cut_after_bytes:
                data, last = data[: max(0, toxics.cut_after_bytes - carried)], True
            carried += len(data)
            with contextlib.suppress(OSError):  # The reader of this end will see it, too.
                await self._send(link, sink, self._damaged(data, toxics.corrupt_every_bytes), toxics)
            if last:
                link.close()
                return

    async def _send(self, link: _Link, sink: socket.socket, data: bytes, toxics: Toxics) -> None:
        while data and not link.is_numb:
            size = toxics.slice_bytes or len(data)
            if toxics.rate_bytes_s:
                size = min(size, max(1, int(toxics.rate_bytes_s / 20)))
            await self._loop.sock_sendall(sink, data[:size])
            if toxics.rate_bytes_s:
                await asyncio.sleep(size / toxics.rate_bytes_s)
            elif toxics.slice_bytes:
                await asyncio.sleep(SLICE_PAUSE_S)
            data = data[size:]

    def _damaged(self, data: bytes, every: int) -> bytes:
        if not every:
            return data
        changed = bytearray(data)
        place = int(self._chance.expovariate(1 / every))
        while place < len(changed):
            changed[place] ^= self._chance.randrange(1, 256)
            place += 1 + int(self._chance.expovariate(1 / every))
        return bytes(changed)


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have let go of their sockets, even if whoever waits is cancelled meanwhile.

    What comes after this closes the sockets. It is the last that a task does, so it owes nothing to its canceller.
    """
    for task in tasks:
        task.cancel()
    while left := [task for task in tasks if not task.done()]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(left)


class _Link:
    """One connection: the socket of whoever connected and, once it is made, that to the target.

    It is first told to close, and released when nobody reads or writes its sockets any more: the loop watches them
    until then, and would miss them.
    """

    def __init__(self, near: socket.socket) -> None:
        self.ends = [near]
        self.is_numb = False
        self.closed = asyncio.Event()
        self.released = asyncio.Event()
        self._rst = False

    def numb(self) -> None:
        self.is_numb = True

    def close(self, *, rst: bool = False) -> None:
        self._rst = self._rst or rst
        self.closed.set()

    def release(self) -> None:
        for end in self.ends:
            if self._rst:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
        self.released.set()
