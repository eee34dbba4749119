"""The worker's I/O thread: what comes in goes to the session and to compute, and what those decide goes out."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import limits, messages
from mlx_mesh_wire.logs import log
from mlx_mesh_wire.recorder import FlightRecorder
from mlx_mesh_wire.sleeper import Sleeper
from mlx_mesh_wire.wake import Wake
from mlx_mesh_worker.compute import Compute
from mlx_mesh_worker.connection import Connection
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.self_report import SelfReport
from mlx_mesh_worker.session import Session
from mlx_mesh_worker.session_actions import Dump, Leave, Reconnect, Renamed, Send, Told
from mlx_mesh_worker.vitals import age_s
from mlx_mesh_worker.watchdog import Watchdog

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_wire.bundle import Mail
    from mlx_mesh_wire.keys import PrivateKeys
    from mlx_mesh_worker.settings import WorkerSettings

EXIT_STUCK = 70
"""EX_SOFTWARE of sysexits.h: the process ended itself because it no longer computed."""

LOADING_AFTER_S = 0.3
"""An engine that loads faster than this says READY and nothing before."""

STOP_S = 0.2
"""How long a worker that leaves waits for the step under way; its jobs are run elsewhere by then."""


class Shell:
    """One worker process."""

    def __init__(
        self,
        settings: WorkerSettings,
        endpoint: str,
        run_dir: Path,
        options: Any = None,
        keys: PrivateKeys | None = None,
    ) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._keys = keys
        instance = secrets.token_bytes(limits.SESSION_BYTES)
        self._recorder = FlightRecorder(run_dir, instance)
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
        self._report = SelfReport(settings, self._compute, self._watchdog, instance)
        self._terms = 0
        self._starting = False
        self._drain_until = float("inf")
        self._left = False
        self._announced = False
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
        self._connection = Connection(self._endpoint, self._keys)
        try:
            self._starting = True
            self._compute.start()
            self._starting = False
            self._session = Session(self._report.ready(), time.monotonic(), resumes=self._report.resumes)
            while not self._left:
                self._serve()
        finally:
            self._close()
        return 0

    def _serve(self) -> None:
        """Keep one connection until it is thrown away or the worker leaves."""
        socket = self._connection.socket
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

    def _left_or_new(self, socket: object) -> bool:
        return self._left or self._connection.socket is not socket

    def _receive_batch(self) -> bool:
        taken = self._connection.drain(time.monotonic(), self._session.message)
        if taken:
            self._flush()
        return taken > 0

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
        self._connection.send(mail)

    def _reconnect(self) -> None:
        log("warning", "broker_silent", endpoint=self._endpoint, hint="connecting anew")
        self._connection.renew()
        self._greet()

    def _greet(self) -> None:
        """Say on a new connection who this is, and what it holds."""
        if self._announced:
            self._session.connected(time.monotonic())
            self._flush()

    def _chores(self, now: float) -> None:
        compute, session = self._compute, self._session
        if self._connection.mind(now):
            self._greet()
        if compute.failure is not None:
            raise compute.failure
        if not session.ready:
            self._while_loading(now)
        self._obey_signals(now)
        if self._announced:
            session.tick(now, self._report.vitals)
            self._flush()
        if self._watchdog.stuck(now):
            os._exit(EXIT_STUCK)

    def _while_loading(self, now: float) -> None:
        compute = self._compute
        if compute.runner is not None:
            self._announced = True
            self._report.warmed_up()
            ready = self._report.ready()
            self._session.loaded(ready, now)
            self._flush()
            phases = compute.phases
            log(
                "info",
                "worker_ready",
                engine=self._settings.engine,
                model=",".join(ready.models),
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

    def _close(self) -> None:
        self._watchdog.close()
        self._stopped = self._compute.stop(STOP_S)
        self._connection.close()
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
