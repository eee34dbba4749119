"""The same engine behind mosec: ``python -m benchmarks.embed.mosec_embed --port N``.

Requests are JSON lists of texts, answers the bytes of the vectors. mosec batches as many requests as a worker of the
mesh holds, and waits for the shortest time that it can be told.
"""

from __future__ import annotations

import json
from typing import Any

from mosec import Server, Worker

from benchmarks.embed.loop import LoopEngine

WORKERS = 2
BATCH_MAX = 8
WAIT_MS = 1


class Embed(Worker):
    """Gives the vectors of a list of texts."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._loop = LoopEngine()

    def deserialize(self, data: bytes) -> Any:
        return json.loads(data)

    def forward(self, data: list[list[str]]) -> list[bytes]:
        return [bytes(value["vectors"].data) for value in self._loop.answer_all(data)]

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Embed, num=WORKERS, max_batch_size=BATCH_MAX, max_wait_time=WAIT_MS)
    server.run()
