"""The broker's loop: frames to events, events to the core, its actions to frames.

All sockets are drained in batches without blocking. Between batches the loop sleeps on the sockets' descriptors. Those
are edge-triggered and a send may use up an edge, so the loop sleeps only after a round in which nothing came in.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Event as ThreadEvent
from typing import TYPE_CHECKING, Any

import zmq

from mlx_mesh_broker.control import Control
from mlx_mesh_broker.core import actions, events
from mlx_mesh_broker.outbox import RETRY_S, Outbox
from mlx_mesh_broker.process_watch import ProcessWatch
from mlx_mesh_broker.snapshot import Snapshot
from mlx_mesh_wire import DecodeError, decode_header, encode_header, limits, pack_body
from mlx_mesh_wire.bundle import Mail, bundles, opened
from mlx_mesh_wire.header import salvage_request_id
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.messages import Bundle, Command, Error, Events
from mlx_mesh_wire.recorder import discard, read_running
from mlx_mesh_wire.sleeper import Sleeper
from mlx_mesh_wire.transport import OversizedMessage, receiver, sender
from mlx_mesh_wire.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_mesh_broker.core.broker import Broker
    from mlx_mesh_broker.settings import BrokerSettings
    from mlx_mesh_broker.sockets import Sockets
    from mlx_mesh_wire.body import Frame

BATCH = 64
"""Messages taken from one socket before the others get their turn."""

RECORDS_S = 0.1
"""Interval of the per-request records on the event socket."""

TOPIC = b"requests"
"""What watchers subscribe to, or to a beginning of it."""

HELD_UP_S = 1.0
"""A sleep or a round that took this much longer than it should means that the process was stopped or starved."""

CHORES_S = 0.05
"""How often operators, watchers and full connections get their turn while messages keep coming."""

SLEEP_MAX_S = 1.0
"""Longest sleep, so that being held up can be told from having nothing to do."""


_Refuse = Callable[[bytes, str, int, str], None]


class Shell:
    """Runs a core on real sockets until :meth:`stop` is called."""

    def __init__(self, core: Broker, sockets: Sockets, settings: BrokerSettings, run_dir: Path) -> None:
        self._core = core
        self._sockets = sockets
        self._run_dir = run_dir
        self._receive_client = receiver(sockets.frontend, routed=True)
        self._receive_worker = receiver(sockets.backend, routed=True)
        self._receive_control = receiver(sockets.control, routed=True)
        self._send_client = sender(sockets.frontend)
        self._send_worker = sender(sockets.backend)
        self._send_control = sender(sockets.control)
        self._for_clients: dict[bytes, list[Mail]] = {}
        self._for_workers: dict[bytes, list[Mail]] = {}
        self._outbox = Outbox(settings.client_max_bytes)
        self._watch = ProcessWatch()
        self._control = Control(core, settings, self._feed, self._process_ended)
        self._wake = Wake()
        self._asked: deque[tuple[ThreadEvent, list[Snapshot]]] = deque()
        self._watchers: set[bytes] = set()
        self._records_due = 0.0
        self._chores_due = 0.0
        self._stopping = False
        self._now = time.monotonic()
        self.counts = {"messages_in": 0, "event_batches_dropped": 0}
        self._do: dict[type, Callable[[Any], None]] = {
            actions.ToClient: lambda action: self._for_clients.setdefault(action.route, []).append(action[1:]),
            actions.ToWorker: lambda action: self._for_workers.setdefault(action.route, []).append(action[1:]),
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
        hot = {self._sockets.frontend.fileno(), self._sockets.backend.fileno()}
        with Sleeper([*hot, *self._cold_descriptors()]) as sleeper:
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
            self._post()

    def close(self) -> None:
        """Give back what was opened; the sockets belong to the caller."""
        self._watch.close()
        self._wake.close()

    def _cold_descriptors(self) -> list[int]:
        return [self._sockets.control.fileno(), self._sockets.events.fileno(), self._wake.fd, self._watch.fd]

    def _timeout(self) -> float:
        now = self._tell_time()
        due = self._core.next_wakeup()
        timeout_s = SLEEP_MAX_S if due is None else min(max(due - now, 0.0), SLEEP_MAX_S)
        if self._outbox:
            timeout_s = min(timeout_s, RETRY_S)
            self._chores_due = min(self._chores_due, now + RETRY_S)
        if self._watchers:
            timeout_s = min(timeout_s, max(self._records_due - now, 0.0))
        return timeout_s

    def _tell_time(self, asked_s: float = 0.0) -> float:
        """Return the time of now; tell the core if far more has passed than was asked for: the process was stopped."""
        before, self._now = self._now, time.monotonic()
        late_s = self._now - before - asked_s
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
        taken = self._drain(self._receive_worker, events.FromWorker, self._bad_worker)
        taken += self._drain(self._receive_client, events.FromClient, self._bad_client)
        self._post()
        self.counts["messages_in"] += taken
        return taken

    def _drain(
        self, receive: Callable[[], list[bytes] | None], event: Callable[..., events.Event], refuse: _Refuse
    ) -> int:
        taken = posted = 0
        while taken < BATCH:
            try:
                frames = receive()
            except OversizedMessage as oversized:
                refuse(oversized.first, oversized.reason, salvage_request_id(oversized.header), "TOO_LARGE")
                taken += 1
                continue
            if frames is None:
                break
            taken += self._take(frames[0], frames[1:], event, refuse)
            if taken >= posted + limits.BUNDLE_MAX_MESSAGES:
                posted = taken
                self._post()
        return taken

    def _take(
        self,
        route: bytes,
        parts: list[bytes],
        event: Callable[..., events.Event],
        refuse: _Refuse,
        bundled: bool = False,
    ) -> int:
        """Hand a message, or all in a bundle, to the core; return how many there were."""
        try:
            message = decode_header(parts[0])
            if type(message) is not Bundle:
                if message is not None:
                    self._feed(event(route, message, parts[1:]))
                return 1
            if bundled:
                raise DecodeError("a BUNDLE holds no other")
            inside = opened(message, parts[1:])
        except DecodeError as error:
            refuse(route, error.message, salvage_request_id(parts[0]), "PROTOCOL_ERROR")
            return 1
        for each in inside:
            self._take(route, each, event, refuse, bundled=True)
        return len(inside)

    def _bad_client(self, route: bytes, reason: str, request_id: int, code: str) -> None:
        self._feed(events.BadClientMessage(route, reason, request_id, code))

    def _bad_worker(self, route: bytes, reason: str, request_id: int, code: str) -> None:
        self._feed(events.BadWorkerMessage(route, reason))

    def _feed(self, event: events.Event) -> None:
        do = self._do
        for action in self._core.handle(self._now, event):
            do[type(action)](action)

    def _post(self) -> None:
        """Send what was decided since the last time, small messages for one peer together."""
        while self._for_workers or self._for_clients:
            for_workers, self._for_workers = self._for_workers, {}
            for_clients, self._for_clients = self._for_clients, {}
            for route, mail in for_workers.items():
                self._post_worker(route, mail)
            for route, mail in for_clients.items():
                self._post_client(route, mail)

    def _post_worker(self, route: bytes, mail: list[Mail]) -> None:
        try:
            for _, frames in bundles(mail):
                self._send_worker([route, *frames])
        except zmq.ZMQError:
            self._feed(events.WorkerUnreachable(route))

    def _post_client(self, route: bytes, mail: list[Mail]) -> None:
        sent = 0
        for carried, frames in bundles(mail):
            whole = [route, *frames]
            try:
                if self._outbox and route in self._outbox:
                    self._keep(route, whole)
                else:
                    self._send_client(whole)
            except zmq.Again:
                self._keep(route, whole)
            except zmq.ZMQError:
                self._feed(events.ClientUnreachable(route, mail[sent:]))
                return
            sent += len(carried)

    def _keep(self, route: bytes, whole: Sequence[Frame]) -> None:
        if not self._outbox.keep(route, whole):
            self._feed(events.ClientClogged(route))

    def _resend(self, route: bytes, whole: Sequence[Frame]) -> bool:
        try:
            self._send_client(whole)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            self._outbox.drop(route)
        return True

    def _chores(self) -> None:
        """Do what no request waits for."""
        self._wake.clear()
        for instance in self._watch.exited():
            self._process_ended(instance)
        while self._asked:
            done, result = self._asked.popleft()
            result.append(Snapshot(self._core.metrics, self._core.status(self._now), self.counts))
            done.set()
        if self._outbox:
            self._outbox.retry(self._resend)
        self._serve_control()
        self._serve_watchers()

    def _process_ended(self, instance: bytes) -> None:
        # What the worker sent before it died may still be on its way in.
        self._rounds()
        self._feed(events.ProcessExited(instance, read_running(self._run_dir, instance)))
        discard(self._run_dir, instance)

    def _serve_control(self) -> None:
        """Answer a batch of commands; the descriptor tells of no more, so a full batch is followed by another soon."""
        for _ in range(BATCH):
            try:
                frames = self._receive_control()
                if frames is None:
                    return
                message = decode_header(frames[1])
            except OversizedMessage as oversized:
                self._reply(oversized.first, Error(0, "TOO_LARGE", oversized.reason, False, 0))
                continue
            except DecodeError as error:
                text = error.message[: limits.ERROR_MESSAGE_MAX_CHARS]
                self._reply(frames[0], Error(0, "PROTOCOL_ERROR", text, False, 0))  # type: ignore[index]
                continue
            if isinstance(message, Command):
                self._reply(frames[0], *self._control.answer(self._now, message, frames[2:]))
        self._wake.set()

    def _reply(self, route: bytes, message: Any, body: Sequence[Any] = ()) -> None:
        try:
            self._send_control([route, encode_header(message), *body])
        except zmq.ZMQError:
            log("debug", "operator_gone", route=route.hex())

    def _serve_watchers(self) -> None:
        events_socket = self._sockets.events
        while True:
            try:
                told = events_socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                break
            topic = told[1:]
            if TOPIC.startswith(topic):  # Others get nothing, and could fill the table.
                (self._watchers.add if told[:1] == b"\x01" else self._watchers.discard)(topic)
            self._core.record_requests = bool(self._watchers)
        if not self._watchers or self._now < self._records_due:
            return
        self._records_due = self._now + RECORDS_S
        records = self._core.take_records()
        if records:
            self._publish(TOPIC, records)

    def _publish(self, topic: bytes, records: list[dict[str, Any]]) -> None:
        try:
            self._sockets.events.send_multipart(
                [topic, encode_header(Events(len(records))), *pack_body(records)], zmq.DONTWAIT
            )
        except zmq.Again:
            self.counts["event_batches_dropped"] += 1
