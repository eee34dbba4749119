"""Sending: what the core has decided to messages on the sockets, small ones for one peer together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from mlx_mesh_broker.core import events
from mlx_mesh_broker.outbox import Outbox
from mlx_mesh_wire.bundle import Mail, bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core.actions import ToClient, ToWorker
    from mlx_mesh_wire.body import Frame

    Send = Callable[[Sequence[Frame]], None]


class Outlets:
    """What is to be sent to clients and workers.

    Args:
        to_client: sends a message to a client without blocking.
        to_worker: the same to a worker.
        feed: hands an event to the core: somebody cannot be reached, or does not read.
        client_max_bytes: kept for a client that does not read.

    Attributes:
        outbox: what clients that do not read fast enough are still to get.
    """

    def __init__(
        self, to_client: Send, to_worker: Send, feed: Callable[[events.Event], None], client_max_bytes: int
    ) -> None:
        self._to_client = to_client
        self._to_worker = to_worker
        self._feed = feed
        self._for_clients: dict[bytes, list[Mail]] = {}
        self._for_workers: dict[bytes, list[Mail]] = {}
        self.outbox = Outbox(client_max_bytes)

    def client(self, action: ToClient) -> None:
        """Have a message sent with the next post."""
        self._for_clients.setdefault(action.route, []).append(action[1:])

    def worker(self, action: ToWorker) -> None:
        """Have a message sent with the next post."""
        self._for_workers.setdefault(action.route, []).append(action[1:])

    def post(self) -> None:
        """Send what was decided since the last time."""
        while self._for_workers or self._for_clients:
            for_workers, self._for_workers = self._for_workers, {}
            for_clients, self._for_clients = self._for_clients, {}
            for route, mail in for_workers.items():
                self._post_worker(route, mail)
            for route, mail in for_clients.items():
                self._post_client(route, mail)

    def retry(self) -> None:
        """Try again what clients would not take."""
        if self.outbox:
            self.outbox.retry(self._resend)

    def _post_worker(self, route: bytes, mail: list[Mail]) -> None:
        try:
            for _, frames in bundles(mail):
                self._to_worker([route, *frames])
        except zmq.ZMQError:
            self._feed(events.WorkerUnreachable(route))

    def _post_client(self, route: bytes, mail: list[Mail]) -> None:
        sent = 0
        for carried, frames in bundles(mail):
            whole = [route, *frames]
            try:
                if self.outbox and route in self.outbox:
                    self._keep(route, whole)
                else:
                    self._to_client(whole)
            except zmq.Again:
                self._keep(route, whole)
            except zmq.ZMQError:
                self._feed(events.ClientUnreachable(route, mail[sent:]))
                return
            sent += len(carried)

    def _keep(self, route: bytes, whole: Sequence[Frame]) -> None:
        if not self.outbox.keep(route, whole):
            self._feed(events.ClientClogged(route))

    def _resend(self, route: bytes, whole: Sequence[Frame]) -> bool:
        try:
            self._to_client(whole)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            self.outbox.drop(route)
        return True
