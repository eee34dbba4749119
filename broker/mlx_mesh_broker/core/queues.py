"""Who is next: one queue for each op and model, three weighted lanes, fair between clients within a lane.

A client is a session or, where there are keys, a key with all its sessions: opening more of them gives no larger share.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import merge
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_broker.core.pool import Pool
from mlx_mesh_wire.messages import Lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_mesh_broker.core.entities import Request, Session, Worker
    from mlx_mesh_broker.core.metrics import OpMetrics
    from mlx_mesh_broker.core.quotas import Account
    from mlx_mesh_broker.core.timers import Alarm

LANE_PATTERN: Final = (0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 2)
"""Lane weights 8:3:1, spread out. A waiting lane is passed over at most 11 times, so none starves."""


class _Lane:
    """Requests of one lane: clients take turns, each client's requests are first in, first out."""

    __slots__ = ("clients", "count")

    def __init__(self) -> None:
        self.clients: OrderedDict[Session | Account, OrderedDict[Request, None]] = OrderedDict()
        self.count = 0

    def push(self, request: Request) -> None:
        """Put the request behind the others of its client."""
        client = request.session.account or request.session
        own = self.clients.get(client)
        if own is None:
            own = self.clients[client] = OrderedDict()
        own[request] = None
        self.count += 1

    def pop(self) -> Request:
        """Take the oldest request of the client whose turn it is."""
        client, own = next(iter(self.clients.items()))
        request, _ = own.popitem(last=False)
        self.count -= 1
        if own:
            self.clients.move_to_end(client)
        else:
            del self.clients[client]
        return request

    def remove(self, request: Request) -> None:
        """Take out a request, wherever it stands."""
        client = request.session.account or request.session
        own = self.clients[client]
        del own[request]
        self.count -= 1
        if not own:
            del self.clients[client]

    def newest_first(self) -> Iterator[Request]:
        """Return the requests, those that arrived last first."""
        return merge(*(reversed(own) for own in self.clients.values()), key=lambda request: -request.arrived)

    def __iter__(self) -> Iterator[Request]:
        for own in self.clients.values():
            yield from own


class Queue:
    """What waits for one op and model (or for ANY), and the workers that serve it.

    Attributes:
        again: requests whose worker was lost; they have waited before and go first.
        gone_at: when the last worker that work may wait for went; None while there is one.
        alarm: ends the waiting when nobody has come back.
        source: number that tells results of the workers it has now from those of others; 0 if none may be shared.
        origin: what the results of all workers that compute for it depend on; None if they differ.
        founders: workers that were there when ``source`` was given. Once they are gone, it changes: those that came
            after may run other code under the same name.
    """

    __slots__ = (
        "again", "alarm", "bytes", "count", "founders", "gone_at", "key", "lanes", "metrics", "origin", "pool",
        "position", "source",
    )  # fmt: skip

    def __init__(self, key: tuple[str, str], metrics: OpMetrics) -> None:
        self.key = key
        self.metrics = metrics
        self.lanes = (_Lane(), _Lane(), _Lane())
        self.again: OrderedDict[Request, None] = OrderedDict()
        self.pool = Pool(key[1])
        self.count = 0
        self.bytes = 0
        self.position = 0
        self.gone_at: float | None = 0.0
        self.alarm: Alarm | None = None
        self.source = 0
        self.origin: Any = None
        self.founders: set[Worker] = set()

    def push(self, request: Request) -> None:
        """Queue a request in its lane; one that was with a worker before goes first."""
        request.queue = self
        request.waiting = True
        if request.attempts:
            self.again[request] = None
        else:
            self.lanes[request.lane].push(request)
        self.count += 1
        self.bytes += request.size

    def pop(self, lowest: int = Lane.BULK) -> Request | None:
        """Take the next request by lane weight and turn, of this lane or a higher one; None if only lower ones wait."""
        if self.again:
            request = self.again.popitem(last=False)[0]
        elif any(lane.count for lane in self.lanes[: lowest + 1]):
            request = self._next_lane(lowest).pop()
        else:
            return None
        self._took(request)
        return request

    def remove(self, request: Request) -> None:
        """Take out a request that was cancelled, evicted or has expired."""
        if request in self.again:
            del self.again[request]
        else:
            self.lanes[request.lane].remove(request)
        self._took(request)

    def below(self, lane: int) -> Iterator[Request]:
        """Yield the requests of the lanes strictly below this one, of the lowest lane the newest first."""
        for lower in reversed(self.lanes[lane + 1 :]):
            yield from lower.newest_first()

    def __iter__(self) -> Iterator[Request]:
        yield from self.again
        for lane in self.lanes:
            yield from lane

    def _took(self, request: Request) -> None:
        request.waiting = False
        self.count -= 1
        self.bytes -= request.size

    def _next_lane(self, lowest: int) -> _Lane:
        position = self.position
        while True:
            number = LANE_PATTERN[position]
            position = (position + 1) % len(LANE_PATTERN)
            if number <= lowest and self.lanes[number].count:
                self.position = position
                return self.lanes[number]
