"""The event socket: who watches, and the records of requests that they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zmq

from mlx_mesh_broker.inlets import BATCH
from mlx_mesh_wire import encode_header, pack_body
from mlx_mesh_wire.messages import Events

if TYPE_CHECKING:
    from mlx_mesh_broker.core.broker import Broker

RECORDS_S = 0.1
"""Interval of the per-request records on the event socket."""

TOPIC = b"requests"
"""What watchers subscribe to, or to a beginning of it."""


class Watchers:
    """Serves those that subscribe to records, without ever waiting for them.

    Args:
        core: tells the records.
        socket: publishes them.
        counts: where batches are counted that watchers would not take.

    Attributes:
        due: when they get the next records.
    """

    def __init__(self, core: Broker, socket: zmq.Socket[bytes], counts: dict[str, int]) -> None:
        self._core = core
        self._socket = socket
        self._counts = counts
        self._topics: set[bytes] = set()
        self.due = 0.0

    def __bool__(self) -> bool:
        return bool(self._topics)

    def serve(self, now: float) -> bool:
        """Take who comes and goes, and publish; True if there may be more subscriptions to take."""
        more = self._hear()
        if self._topics and now >= self.due:
            self.due = now + RECORDS_S
            records = self._core.take_records()
            if records:
                self._publish(records)
        return more

    def _hear(self) -> bool:
        """Learn who has come and gone; return whether there was a full batch."""
        more = True
        receive = self._socket.recv
        for _ in range(BATCH):
            try:
                told = receive(zmq.DONTWAIT)
            except zmq.Again:
                more = False
                break
            topic = told[1:]
            if TOPIC.startswith(topic):  # Others get nothing, and could fill the table.
                (self._topics.add if told[:1] == b"\x01" else self._topics.discard)(topic)
        self._core.record_requests = bool(self._topics)
        return more

    def _publish(self, records: list[dict[str, Any]]) -> None:
        try:
            self._socket.send_multipart([TOPIC, encode_header(Events(len(records))), *pack_body(records)], zmq.DONTWAIT)
        except zmq.Again:
            self._counts["event_batches_dropped"] += 1
