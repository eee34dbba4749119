"""Whose turn it is: lanes by their weights, clients one after the other, as the order of the first JOBs shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.queues import LANE_PATTERN
from mlx_mesh_wire.messages import Lane
from tests.sim.invariants import PASSED_OVER_MAX, Violation

if TYPE_CHECKING:
    from mlx_mesh_broker.core.entities import Request, Worker
    from mlx_mesh_broker.core.queues import Queue

ROUND = len(LANE_PATTERN)
SHARES = [8, 3, 1]
"""The promise, on its own: not read from the pattern, which may be wrong."""


class Turns:
    """The turns of one queue.

    Attributes:
        passed: how often each lane was passed over while it waited and its turn could come.
        shares: how many of each lane went, since all three have been waiting.
        last: of each lane, whose request went last, and who waited in front then, with which request.
    """

    __slots__ = ("last", "passed", "shares")

    def __init__(self) -> None:
        self.passed = [0, 0, 0]
        self.shares = [0, 0, 0]
        self.last: list[tuple[Any, Any, Any]] = [(None, None, None)] * 3

    def took(self, queue: Queue, request: Request, worker: Worker) -> None:
        """Take account of a request that left the queue for a worker for the first time.

        The lanes are looked at after the whole event. An event that dispatches lets no lane fill up but that of the
        request which it brings, and that one before it dispatches: what waits afterwards waited at each turn.
        """
        lane = request.lane
        waiting = [each.count > 0 for each in queue.lanes]
        bulk_may = worker.lowest == Lane.BULK and worker.bulk < worker.bulk_capacity and not request.affinity
        self._pass_over(queue, lane, [waiting[0], waiting[1] and worker.lowest >= 1, waiting[2] and bulk_may])
        self._weigh(queue, lane, all(waiting) and bulk_may)
        self._take_turns(queue, request)

    def _pass_over(self, queue: Queue, lane: int, could_go: list[bool]) -> None:
        passed = self.passed
        for other in (0, 1, 2):
            if other == lane or not could_go[other]:
                passed[other] = 0
                continue
            passed[other] += 1
            if passed[other] > PASSED_OVER_MAX:
                raise Violation("starvation", f"{queue.key}: lane {other} was passed over {passed[other]} times")

    def _weigh(self, queue: Queue, lane: int, saturated: bool) -> None:
        if not saturated:
            self.shares = [0, 0, 0]
            return
        shares = self.shares
        shares[lane] += 1
        if sum(shares) == ROUND:
            if shares != SHARES:
                raise Violation("lane_weights", f"{queue.key}: of {ROUND} requests {shares} went, not {SHARES}")
            self.shares = [0, 0, 0]

    def _take_turns(self, queue: Queue, request: Request) -> None:
        lane, session = request.lane, request.session.account or request.session
        last, front, first = self.last[lane]
        clients = queue.lanes[lane].clients
        if last is session and front is not session and first in clients.get(front, ()):
            text = f"{queue.key}: {session.name} had two turns in lane {lane}, {front.name} waits"
            raise Violation("client_turns", text)
        front = next((each for each in clients if each is not session), None)
        self.last[lane] = session, front, next(iter(clients[front])) if front is not None else None
