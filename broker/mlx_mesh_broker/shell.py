"""The broker's loop: frames to events, events to the core, its actions to frames, each turned in a module of its own.

All sockets are drained in batches without blocking. Between batches the loop sleeps on the sockets' descriptors. Those
are edge-triggered and a send may use up an edge, so the loop sleeps only after a round in which nothing came in.
"""

from __future__ import annotations

import time
from collections import deque
from threading import Event as ThreadEvent
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.authorised import LOOK_S
from mlx_mesh_broker.control import Control
from mlx_mesh_broker.core import actions, events
from mlx_mesh_broker.gaps import Gaps
from mlx_mesh_broker.inlets import FROM_CLIENTS, FROM_WORKERS, Inlet, held
from mlx_mesh_broker.memory import Memory, trimmer
from mlx_mesh_broker.operators import Operators
from mlx_mesh_broker.outbox import RETRY_S
from mlx_mesh_broker.outlets import Outlets
from mlx_mesh_broker.process_watch import ProcessWatch
from mlx_mesh_broker.snapshot import Snapshot
from mlx_mesh_broker.watchers import Watchers
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.recorder import discard, read_running
from mlx_mesh_wire.sleeper import Sleeper
from mlx_mesh_wire.transport import receiver, sender
from mlx_mesh_wire.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_mesh_broker.core.broker import Broker
    from mlx_mesh_broker.doors import Doors
    from mlx_mesh_broker.paths_watch import PathsWatch
    from mlx_mesh_broker.settings import BrokerSettings
    from mlx_mesh_broker.sockets import Sockets

HELD_UP_S = 1.0
"""A sleep or a round that took this much longer than it should means that the process was stopped or starved."""

CHORES_S = 0.05
"""How often operators, watchers and full connections get their turn while messages keep coming."""

SLEEP_MAX_S = 1.0
"""Longest sleep, so that being held up can be told from having nothing to do."""


class Shell:
    """Runs a core on real sockets until :meth:`stop` is called."""

    def __init__(
        self,
        core: Broker,
        sockets: Sockets,
        settings: BrokerSettings,
        run_dir: Path,
        *,
        paths: PathsWatch,
        doors: Doors | None = None,
    ) -> None:
        self._core = core
        self._run_dir = run_dir
        self._paths = paths
        self._doors = doors
        self._now = time.monotonic()
        self._stopping = False
        self._chores_due = 0.0
        self._hot = {sockets.frontend.fileno(), sockets.backend.fileno()}
        self._cold = [sockets.control.fileno(), sockets.events.fileno()]
        send_client, send_worker = sender(sockets.frontend), sender(sockets.backend)
        if doors is not None:
            send_client, send_worker = doors.beside("client", send_client), doors.beside("worker", send_worker)
        self._outlets = Outlets(send_client, send_worker, self._feed, settings.client_max_bytes)
        self._inlets = [
            Inlet(receiver(sockets.backend, routed=True), FROM_WORKERS, self._feed, self._outlets.post),
            Inlet(receiver(sockets.frontend, routed=True), FROM_CLIENTS, self._feed, self._outlets.post),
        ]
        if doors is not None:
            self._open(doors)
        control = Control(core, settings, self._feed, self._process_ended)
        self._operators = Operators(sockets.control, control, doors, lambda: self._now)
        self._counts = {"messages_in": 0, "event_batches_dropped": 0}
        self._watchers = Watchers(core, sockets.events, self._counts)
        self._watch = ProcessWatch()
        self._gaps = Gaps()
        self._memory = Memory(trimmer())
        self._wake = Wake()
        self._asked: deque[tuple[ThreadEvent, list[Snapshot]]] = deque()
        self._do: dict[type, Callable[[Any], None]] = {
            actions.ToClient: self._outlets.client,
            actions.ToWorker: self._outlets.worker,
            actions.Watch: lambda action: self._watch.watch(*action),
            actions.Unwatch: lambda action: self._watch.unwatch(action.instance),
            actions.Log: lambda action: log(action.level, action.event, **action.fields),
        }

    def stop(self) -> None:
        """End :meth:`run`; may be called from a signal handler or another thread."""
        self._stopping = True
        self._wake.set()

    def snapshot(self, timeout_s: float) -> Snapshot | None:
        """Return a copy of all figures, made by the loop; to be called from another thread."""
        done, result = ThreadEvent(), []  # type: ignore[var-annotated]
        self._asked.append((done, result))
        self._wake.set()
        return result[0] if done.wait(timeout_s) else None

    def run(self) -> None:
        """Serve until stopped."""
        hot = self._hot
        self._now = time.monotonic()
        with Sleeper([*hot, *self._cold, self._wake.fd, self._watch.fd]) as sleeper:
            while not self._stopping:
                busy = self._rounds()
                timeout_s = 0.0 if busy else self._timeout()
                woken = sleeper.sleep(timeout_s)
                now = self._tell_time(timeout_s)
                due = self._core.next_wakeup()
                if due is not None and due <= now:
                    self._feed(events.Wakeup())
                if now >= self._chores_due or not woken <= hot:
                    self._chores_due = now + CHORES_S
                    self._chores()
            self._outlets.post()

    def close(self) -> None:
        """Give back what was opened; the sockets belong to the caller."""
        self._watch.close()
        self._wake.close()

    def _open(self, doors: Doors) -> None:
        """Serve peers with keys beside the others."""
        self._cold += doors.fds
        for role, kind in (("worker", FROM_WORKERS), ("client", FROM_CLIENTS)):
            door = doors.by_role.get(role)
            if door is not None:
                self._hot.add(door.fd)
                self._inlets.append(Inlet(door.receive, held(door, kind), self._feed, self._outlets.post))
        door = doors.by_role.get("operator")
        if door is not None:
            self._cold.append(door.fd)

    def _timeout(self) -> float:
        now = self._tell_time()
        due = self._core.next_wakeup()
        timeout_s = SLEEP_MAX_S if due is None else min(max(due - now, 0.0), SLEEP_MAX_S)
        if self._outlets.outbox:
            timeout_s = min(timeout_s, RETRY_S)
            self._chores_due = min(self._chores_due, now + RETRY_S)
        if self._doors is not None:
            timeout_s = min(timeout_s, LOOK_S)
        if self._watchers:
            timeout_s = min(timeout_s, max(self._watchers.due - now, 0.0))
        return timeout_s

    def _tell_time(self, asked_s: float = 0.0) -> float:
        """Return the time of now; tell the core if far more has passed than was asked for: the process was stopped."""
        before, self._now = self._now, time.monotonic()
        late_s = self._now - before - asked_s
        self._gaps.note(self._now, late_s)
        if late_s > HELD_UP_S:
            self._feed(events.HeldUp(late_s))
        return self._now

    def _rounds(self) -> bool:
        """Take messages until there are none; True if the time for that was over first, as in a flood."""
        until = time.monotonic() + CHORES_S
        while self._round():
            if self._now >= until:
                return True
        return False

    def _round(self) -> int:
        """Take a batch from each socket and send what came of it; return how many messages there were."""
        self._tell_time()
        taken = 0
        for inlet in self._inlets:
            taken += inlet.drain()
        self._outlets.post()
        self._counts["messages_in"] += taken
        return taken

    def _feed(self, event: events.Event) -> None:
        do = self._do
        for action in self._core.handle(self._now, event):
            do[type(action)](action)

    def _chores(self) -> None:
        """Do what no request waits for."""
        self._wake.clear()
        for instance in self._watch.exited():
            self._process_ended(instance)
        if self._asked:
            self._show()
        self._outlets.retry()
        if self._doors is not None:
            self._mind(self._doors)
        if self._operators.serve():
            self._wake.set()
        if self._watchers.serve(self._now):
            self._wake.set()
        self._memory.tend(self._now, self._counts["messages_in"])
        self._paths.look(self._now)

    def _show(self) -> None:
        """Give all who have asked the same snapshot, so that it costs no more when many ask."""
        gap_s = self._gaps.longest_s(self._now)
        shown = Snapshot(self._core.metrics, self._core.status(self._now), self._counts, gap_s, self._auth_counts())
        while self._asked:
            done, result = self._asked.popleft()
            result.append(shown)
            done.set()

    def _auth_counts(self) -> dict[tuple[str, str], int]:
        return {} if self._doors is None else self._doors.counts

    def _mind(self, doors: Doors) -> None:
        """Let in who has a key, and end what is served to those who have none any more."""
        for name in doors.revoked(self._now):
            self._feed(events.Revoked(name))
        if doors.admit(self._now):
            self._wake.set()

    def _process_ended(self, instance: bytes) -> None:
        # What the worker sent before it died may still be on its way in.
        self._rounds()
        self._feed(events.ProcessExited(instance, read_running(self._run_dir, instance)))
        discard(self._run_dir, instance)
