"""Good clients: what others do to the broker is seen in how long their calls take."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from mlx_mesh import AsyncMesh, MeshError

PAUSE_S = 0.002
CALL_TIMEOUT_S = 10.0
FAVOURED = -15


def favour(pid: int) -> None:
    """Let a process, or a thread, run before others if we may: what else the machine does is not to be measured."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, FAVOURED)


class Bystanders:
    """One client by ipc and one by TCP that call ``echo`` all the time, from a thread.

    Attributes:
        calls: how many had their answer.
        failed: those that did not, by reason; and answers that were wrong.
        longest_s: the longest call since :meth:`begin`.
        late_s: how late a timer of the same thread was at most: what the machine, and not the broker, held up.
    """

    def __init__(self, *endpoints: str) -> None:
        self._endpoints = endpoints
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self.failed: Counter[str] = Counter()
        self.begin()

    def begin(self) -> None:
        """Measure from now on."""
        self.calls, self.longest_s, self.late_s = 0, 0.0, 0.0
        self.failed.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(CALL_TIMEOUT_S + 5)

    def _main(self) -> None:
        favour(threading.get_native_id())
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            for endpoint in self._endpoints:
                group.create_task(self._client(endpoint))

    async def _tick(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            await asyncio.sleep(PAUSE_S)
            self.late_s = max(self.late_s, time.monotonic() - began - PAUSE_S)

    async def _client(self, endpoint: str) -> None:
        async with AsyncMesh(endpoint) as mesh:
            number = 0
            while not self._over.is_set():
                number += 1
                began = time.monotonic()
                try:
                    answer = await mesh.call("echo", number, timeout=CALL_TIMEOUT_S)
                except MeshError as error:
                    self.failed[f"{error.code}: {error.message}"] += 1
                else:
                    self.failed.update({} if answer == number else {"wrong answer": 1})
                    self.calls += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                await asyncio.sleep(PAUSE_S)
