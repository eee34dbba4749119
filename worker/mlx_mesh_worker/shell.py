"""The worker's I/O thread: the socket, the beats, the watchdogs and the signals."""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import time
from typing import TYPE_CHECKING, Any

import zmq

from mlx_mesh_wire import DecodeError, decode_header, limits, messages
from mlx_mesh_wire.bundle import Mail, bundles, opened
from mlx_mesh_wire.host import own_identity
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.messages import Bundle
from mlx_mesh_wire.recorder import FlightRecorder
from mlx_mesh_wire.sleeper import Sleeper
from mlx_mesh_wire.transport import LINGER_MS, OversizedMessage, dealer, receiver, sender
from mlx_mesh_wire.wake import Wake
from mlx_mesh_worker.compute import Compute
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.session import Session, Vitals
from mlx_mesh_worker.session_actions import Dump, Leave, Reconnect, Renamed, Send, Told
from mlx_mesh_worker.versions import versions
from mlx_mesh_worker.vitals import age_s, resident_bytes
from mlx_mesh_worker.watchdog import Watchdog

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_worker.engine import Engine
    from mlx_mesh_worker.settings import WorkerSettings

EXIT_STUCK = 70
"""EX_SOFTWARE of sysexits.h: the process ended itself because it no longer computed."""

LOADING_AFTER_S = 0.3
"""An engine that loads faster than this says READY and nothing before."""

BATCH = 64
"""Messages taken in before outcomes are sent."""

DEFAULT_NAME_CHARS = limits.NAME_MAX_CHARS - 12
"""What is taken of the engine's name; the rest is for the pid."""

STOP_S = 0.2
"""How long a worker that leaves waits for the step under way; its jobs are run elsewhere by then."""

RECONNECT_MAX_MS = 500
"""A broker on the same machine is back within a second; waiting longer only delays its first jobs."""


class Shell:
    """One worker process."""

    def __init__(self, settings: WorkerSettings, endpoint: str, run_dir: Path, options: Any = None) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._instance = secrets.token_bytes(limits.SESSION_BYTES)
        self._recorder = FlightRecorder(run_dir, self._instance)
        self._wake = Wake()
        self._record = Record(self._recorder.begin, self._recorder.end)
        self._compute = Compute(
            settings,
            self._record,
            lambda text: log("error", "engine_error", traceback=text),
            self._wake.set,
            options,
        )
        self._watchdog = Watchdog(self._compute, settings)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._terms = 0
        self._starting = False
        self._drain_until = float("inf")
        self._left = False
        self._announced = False
        self._rss_ready = 0
        self._stopped = True

    @property
    def loaded(self) -> bool:
        """Whether the engine was loaded and warmed up."""
        return self._compute.runner is not None

    @property
    def stopped(self) -> bool:
        """Whether compute has ended; if not, a step goes on in the background that nothing in the process can end."""
        return self._stopped

    def signalled(self) -> None:
        """SIGTERM or SIGINT came: the first drains, the second hurries.

        Raises:
            SystemExit: the engine is still being imported; there is nothing to drain.
        """
        if self._starting:
            self._left = True
            raise SystemExit(0)
        self._terms += 1
        self._wake.set()

    def run(self) -> int:
        """Serve until told to leave; return the exit status.

        Raises:
            EngineLoadError: the engine cannot be had.
            EngineBrokenError: the engine cannot go on.
        """
        self._connect()
        try:
            self._starting = True
            self._compute.start()
            self._starting = False
            self._session = Session(self._info(), time.monotonic(), resumes=self._engine.resumes)
            while not self._left:
                self._serve()
        finally:
            self._close()
        return 0

    def _serve(self) -> None:
        """Keep one connection until it is thrown away or the worker leaves."""
        socket = self._socket
        with Sleeper([socket.fileno(), self._wake.fd]) as sleeper:
            while not self._left_or_new(socket):
                while self._receive_batch() or self._collect():
                    pass
                now = time.monotonic()
                self._chores(now)
                if self._left_or_new(socket) or self._receive_batch() or self._collect():
                    continue
                if self._wake.fd in sleeper.sleep(max(0.0, self._next_chore() - now)):
                    self._wake.clear()

    def _left_or_new(self, socket: zmq.Socket[bytes]) -> bool:
        return self._left or self._socket is not socket

    def _connect(self) -> None:
        socket = dealer(self._context, self._endpoint, RECONNECT_MAX_MS)
        self._socket = socket
        self._receive = receiver(socket)
        self._send = sender(socket)

    def _receive_batch(self) -> bool:
        now = time.monotonic()
        taken = 0
        while taken < BATCH:
            try:
                frames = self._receive()
                if frames is None:
                    break
            except OversizedMessage as error:
                log("warning", "bad_message", reason=str(error))
                continue
            taken += self._take(now, frames)
        if taken:
            self._flush()
        return taken > 0

    def _take(self, now: float, frames: list[bytes]) -> int:
        """Hand a message, or all in a bundle, to the session; return how many there were."""
        try:
            message = decode_header(frames[0])
            inside = opened(message, frames[1:]) if type(message) is Bundle else ()
        except DecodeError as error:
            log("warning", "bad_message", reason=str(error))
            return 1
        for each in inside:
            self._take(now, each)
        if message is not None:
            self._session.message(now, message, frames[1:])
        return len(inside) or 1

    def _collect(self) -> bool:
        """Take what the compute thread made; for an inline engine, make it now."""
        compute = self._compute
        compute.go()
        outcomes = compute.outcomes
        if not outcomes:
            return False
        now = time.monotonic()
        while outcomes:
            self._session.outcome(now, outcomes.popleft())
            if len(self._session.actions) >= limits.BUNDLE_MAX_MESSAGES:
                self._flush()
        self._flush()
        return True

    def _flush(self) -> None:
        runner = self._compute.runner
        mail: list[Mail] = []
        for action in self._session.take():
            kind = type(action)
            if kind is Send:
                mail.append(action)  # type: ignore[arg-type]
            elif kind is Leave:
                self._left = True
            elif kind is Reconnect:
                self._reconnect()
            elif kind is Renamed:
                self._record.renamed()
            elif kind is Told:
                _note(action.message)  # type: ignore[union-attr, arg-type]
            elif kind is Dump:
                self._watchdog.dump(time.monotonic(), action.reason)  # type: ignore[union-attr]
            elif runner is not None:
                runner.commands.append(action)  # type: ignore[arg-type]
        for _, frames in bundles(mail):
            self._send(frames)

    def _reconnect(self) -> None:
        log("warning", "broker_silent", endpoint=self._endpoint, hint="connecting anew")
        self._socket.close(0)
        self._connect()
        if self._announced:
            self._session.connected(time.monotonic())
            self._flush()

    def _chores(self, now: float) -> None:
        compute, session = self._compute, self._session
        if compute.failure is not None:
            raise compute.failure
        if not session.ready:
            self._while_loading(now)
        self._obey_signals(now)
        if self._announced:
            session.tick(now, self._vitals)
            self._flush()
        if self._watchdog.stuck(now):
            os._exit(EXIT_STUCK)

    def _while_loading(self, now: float) -> None:
        compute = self._compute
        if compute.runner is not None:
            self._announced = True
            self._rss_ready = resident_bytes()
            self._session.loaded(self._info(), now)
            self._flush()
            phases = compute.phases
            log(
                "info",
                "worker_ready",
                engine=self._settings.engine,
                model=",".join(self._engine.models),
                pid=os.getpid(),
                import_ms=round(phases.import_ms),
                load_ms=round(phases.load_ms),
                warm_ms=round(phases.warm_ms),
                total_ms=round(age_s() * 1e3),
            )
        elif not self._announced and now - compute.loading_since >= LOADING_AFTER_S:
            self._announced = True
            self._session.connected(now)
            self._flush()

    def _obey_signals(self, now: float) -> None:
        if not self._terms:
            return
        if not self._session.ready:
            self._session.abandon("told to leave while loading")
        elif self._terms > 1 or now >= self._drain_until:
            self._session.abandon("told to hurry" if self._terms > 1 else "drain time is over")
        elif self._drain_until == float("inf"):
            log("info", "draining", held=len(self._session.jobs))
            self._drain_until = now + self._settings.drain_s
            self._session.drain(now)
        self._flush()

    def _next_chore(self) -> float:
        if self._session.ready:
            return min(self._session.next_tick(), self._watchdog.next_look, self._drain_until)
        return time.monotonic() + 0.05

    def _vitals(self) -> Vitals:
        runner = self._compute.runner
        warm = self._engine.warm_models() if runner else ()
        self._compute.refresh()
        memory, counters = {"rss": resident_bytes(), **self._compute.memory}, self._compute.counters
        if self._rss_ready:
            memory["rss_ready"] = self._rss_ready
        if runner is None:
            return Vitals(0, (), warm, memory, counters)
        progress = self._watchdog.progress(time.monotonic())
        return Vitals(progress, [job.id for job in runner.running if job.id > 0], warm, memory, counters)

    @property
    def _engine(self) -> Engine:
        assert self._compute.engine is not None  # noqa: S101  start() sets it
        return self._compute.engine

    def _info(self) -> messages.Ready:
        engine, settings = self._engine, self._settings
        host, machine, pid, pid_start = own_identity()
        return messages.Ready(
            major=limits.PROTOCOL_MAJOR,
            minor=limits.PROTOCOL_MINOR,
            instance=self._instance,
            name=settings.name or f"{settings.engine.rpartition(':')[2].lower()[:DEFAULT_NAME_CHARS]}-{pid}",
            host=host,
            machine=machine,
            pid=pid,
            pid_start=pid_start,
            ops=list(engine.ops),
            pure_ops=list(engine.pure_ops),
            models=list(engine.models),
            slots=settings.slots or engine.slots,
            load_max_ms=int(settings.load_max_s * 1000),
            versions={**self._compute.about, **versions()},
            bulk_slots=engine.bulk_slots,
        )

    def _close(self) -> None:
        self._watchdog.close()
        self._stopped = self._compute.stop(STOP_S)
        self._socket.close(LINGER_MS)
        self._context.term()
        self._wake.close()
        # A broker that knows this worker reads its record when the process ends, and blames all jobs if there is none.
        if self._left or not self._announced:
            self._recorder.close()
        log("info", "worker_stopped")


def _note(message: messages.Error | messages.Bye) -> None:
    if isinstance(message, messages.Bye):
        log("warning", "broker_goodbye", reason=message.reason, hint="connecting again")
    else:
        log("warning", "broker_complaint", code=message.code, reason=message.message)


def install_signals(shell: Shell) -> None:
    """Have SIGTERM and SIGINT drain, SIGUSR1 print every stack, and crashes leave a traceback."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shell.signalled())
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
