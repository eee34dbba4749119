"""The broker as one pure state machine: events in, actions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core import events, invariants
from mlx_mesh_broker.core.admission import Admission
from mlx_mesh_broker.core.answers import Answers, failure
from mlx_mesh_broker.core.clients import Clients
from mlx_mesh_broker.core.dispatch import Dispatcher
from mlx_mesh_broker.core.entities import Request
from mlx_mesh_broker.core.jobs import Jobs
from mlx_mesh_broker.core.liveness import Liveness
from mlx_mesh_broker.core.state import State
from mlx_mesh_broker.core.status import status
from mlx_mesh_broker.core.supervision import Supervision
from mlx_mesh_broker.core.timers import Alarm
from mlx_mesh_broker.core.workers import Workers
from mlx_mesh_wire import pack_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_broker.core.actions import Action
    from mlx_mesh_broker.core.config import Config
    from mlx_mesh_broker.core.events import Event
    from mlx_mesh_broker.core.metrics import Metrics
    from mlx_mesh_broker.core.quotas import Account

SWEEP_S = 5.0
"""How often clients and holdings that nobody asks for any more are looked for."""


class Broker:
    """Balances requests over workers. It reads no clock, opens no socket and starts no thread.

    Args:
        config: limits and intervals.
        epoch: name of this life, different from every earlier one.
        machine: this machine, as workers name theirs; workers elsewhere are given more time.
        now: seconds of a monotonic clock, as in every later call.
        bereft: the broker before did not end in order, as when it was killed. Its workers are on their way to this one,
            so for ``rejoin_s`` all requests wait for them, also those of clients who are new.
    """

    def __init__(self, config: Config, epoch: str, now: float, machine: str = "", *, bereft: bool = False) -> None:
        self._state = state = State(config, epoch, machine, now, bereft=bereft)
        self._answers = Answers(state)
        self._dispatcher = Dispatcher(state, self._answers)
        admission = Admission(state, self._answers, self._dispatcher)
        self._clients = Clients(state, self._answers, self._dispatcher, admission, self._status_frames)
        self._liveness = Liveness(state, self._answers, self._dispatcher)
        self._jobs = Jobs(state, self._answers, self._dispatcher, self._liveness)
        self._workers = Workers(state, self._dispatcher, self._liveness, self._jobs)
        self._supervision = Supervision(state, self._dispatcher, self._liveness)
        self._sweeper = Alarm(self._sweep)
        state.timers.set(self._sweeper, now + SWEEP_S, now)
        state.alarm(config.rejoin_s, self._jobs.expire_parked)
        self._on: dict[type, Callable[[Any], None]] = {
            events.FromClient: self._clients.message,
            events.FromWorker: self._workers.message,
            events.BadClientMessage: self._clients.malformed,
            events.BadWorkerMessage: self._workers.malformed,
            events.ClientUnreachable: self._clients.unreachable,
            events.ClientClogged: self._clients.clogged,
            events.WorkerUnreachable: self._worker_unreachable,
            events.ProcessExited: self._process_exited,
            events.Wakeup: self._wakeup,
            events.HeldUp: self._held_up,
            events.Drain: self._supervision.drain,
            events.TrimWorkers: self._supervision.trim,
            events.GuardTold: self._supervision.told,
            events.Revoked: self._revoked,
        }

    def handle(self, now: float, event: Event) -> list[Action]:
        """Take in what happened and return what is to be done, in order."""
        state = self._state
        state.now = now
        out: list[Action] = []
        state.out = out
        self._on[type(event)](event)
        return out

    def next_wakeup(self) -> float | None:
        """Return when a Wakeup is due, in seconds of the same clock."""
        return self._state.timers.next()

    def status(self, now: float) -> dict[str, Any]:
        """Return the status map."""
        self._state.now = now
        return status(self._state)

    def check_invariants(self) -> None:
        """Raise AssertionError if the core contradicts itself."""
        invariants.check(self._state)

    def processes_of(self, pid: int) -> list[tuple[bytes, int]]:
        """Return the instances of local workers that told this pid, each with the start of the process (0: unknown)."""
        workers = self._state.instances.values()
        return [(w.info.instance, w.info.pid_start) for w in workers if w.info.pid == pid and not w.remote]

    @property
    def metrics(self) -> Metrics:
        """The counters."""
        return self._state.metrics

    @property
    def record_requests(self) -> bool:
        """Whether per-request records are made; somebody must then collect them."""
        return self._state.record_requests

    @record_requests.setter
    def record_requests(self, on: bool) -> None:
        self._state.record_requests = on
        if not on:
            self._state.records = []

    def take_records(self) -> list[dict[str, Any]]:
        """Return the records made since the last call."""
        records, self._state.records = self._state.records, []
        return records

    def _status_frames(self, asker: Account | None) -> Sequence[Any]:
        return pack_body(status(self._state, asker))

    def _worker_unreachable(self, event: events.WorkerUnreachable) -> None:
        self._liveness.unreachable(event.route)

    def _process_exited(self, event: events.ProcessExited) -> None:
        worker = self._state.instances.get(event.instance)
        if worker is not None:
            self._liveness.exited(worker, event.running)

    def _wakeup(self, event: events.Wakeup) -> None:
        while (item := self._state.timers.pop(self._state.now)) is not None:
            if isinstance(item, Alarm):
                item.call()
            else:
                assert isinstance(item, Request)  # noqa: S101  nothing else is timed
                why = failure("DEADLINE_EXCEEDED", "the deadline passed before there was an answer")
                self._dispatcher.drop(item, why)

    def _held_up(self, event: events.HeldUp) -> None:
        """Give everybody the time that the broker itself was away."""
        state = self._state
        state.metrics.counts["held_up"] += 1
        state.log("warning", "broker_was_held_up", seconds=round(event.seconds, 3))
        for worker in state.instances.values():
            worker.heard = min(worker.heard + event.seconds, state.now)
            worker.progressed = min(worker.progressed + event.seconds, state.now)
            worker.loading_since = min(worker.loading_since + event.seconds, state.now)
        for session in state.sessions.values():
            session.heard = min(session.heard + event.seconds, state.now)
            session.away_since = min(session.away_since + event.seconds, state.now)
            for request in session.outstanding.values():
                if request.stream and request.starved_at:
                    request.starved_at = min(request.starved_at + event.seconds, state.now)
        self._supervision.held_up(event.seconds)

    def _revoked(self, event: events.Revoked) -> None:
        account = self._state.accounts.pop(event.name, None)
        if account is not None:
            sessions, workers = self._clients.revoked(account), self._workers.revoked(account)
            self._state.log("warning", "key_lost_service", key=event.name, sessions=sessions, workers=workers)

    def _sweep(self) -> None:
        self._clients.sweep()
        self._jobs.expire_holdings()
        self._state.timers.set(self._sweeper, self._state.now + SWEEP_S, self._state.now)
