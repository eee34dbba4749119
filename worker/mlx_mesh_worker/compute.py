"""The compute thread: loads the engine, warms it up, and steps it for as long as there is work.

Everything that touches MLX happens here, since its streams belong to a thread. Inline engines are stepped by the I/O
thread with the same runner; they are loaded there too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire.logs import log
from mlx_mesh_worker.allocator import give_back
from mlx_mesh_worker.declared import check_declared, checked_about, fit_counters
from mlx_mesh_worker.engines import find_engine
from mlx_mesh_worker.runner import Runner
from mlx_mesh_worker.vitals import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh_worker.engine import Engine
    from mlx_mesh_worker.record import Record
    from mlx_mesh_worker.runner import Outcome
    from mlx_mesh_worker.settings import WorkerSettings

MEASURE_S = 0.5
"""How often the engine is asked for its memory and its counters, at most."""


class Phases:
    """Milliseconds that the parts of the start took."""

    def __init__(self) -> None:
        self.import_ms = 0.0
        self.load_ms = 0.0
        self.warm_ms = 0.0


class Compute:
    """Owns the engine and its runner.

    Args:
        settings: which engine and model, how many failures.
        record: the flight recorder; its ``begin`` and ``end`` are called by the thread that computes.
        report: gets the text of tracebacks.
        wake: called when there are outcomes, when the engine is ready, and when it broke.
        options: the engine's own settings, if it has any.

    Attributes:
        engine: None until its class was found.
        runner: None until the engine is warm.
        failure: what ended the thread.
        loading_since: when loading began.
        memory: bytes by kind, as the engine said last; ``counters`` likewise.
        about: what it says of itself, once it is warm.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        record: Record,
        report: Callable[[str], None],
        wake: Callable[[], None],
        options: Any = None,
    ) -> None:
        self._settings = settings
        self._options = options
        self._record = record
        self._report = report
        self._wake = wake
        self._go = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._measure_due = 0.0
        self._worked = False
        self.outcomes: deque[Outcome] = deque()
        self.engine: Engine | None = None
        self.runner: Runner | None = None
        self.failure: BaseException | None = None
        self.loading_since = time.monotonic()
        self.phases = Phases()
        self.memory: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.about: dict[str, str] = {}

    def start(self) -> None:
        """Find the engine; load it on a thread of its own, unless it is inline.

        Raises:
            EngineLoadError: there is no such engine, it declares what cannot be, or an inline one cannot load.
        """
        before = time.monotonic()
        cls = find_engine(self._settings.engine)
        self.engine = cls(self._settings.model)
        if self._options is not None:
            self.engine.settings = self._options
        check_declared(self.engine)
        self.phases.import_ms = (time.monotonic() - before) * 1e3
        if cls.inline:
            self._load(self.engine)
        else:
            self._thread = threading.Thread(target=self._main, args=(self.engine,), name="compute", daemon=True)
            self._thread.start()

    def go(self) -> None:
        """There may be something to do: run an inline engine now, wake the thread otherwise."""
        if self._thread is not None:
            self._go.set()
        elif self.runner is not None and self.runner.busy:
            self.outcomes.extend(self.runner.turn())
            self._after_trim(self.runner)

    def refresh(self) -> None:
        """Ask an inline engine for its figures; others are asked by their own thread."""
        if self._thread is None and self.runner is not None:
            self._measure(time.monotonic())

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the step under way; False if that has not ended by then."""
        self._stopping = True
        self._go.set()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _load(self, engine: Engine) -> None:
        before = time.monotonic()
        engine.load()
        check_declared(engine)
        loaded = time.monotonic()
        engine.warm()
        self.phases.load_ms = (loaded - before) * 1e3
        self.phases.warm_ms = (time.monotonic() - loaded) * 1e3
        self._measure(time.monotonic())
        self.about = checked_about(engine)
        self.runner = Runner(engine, time.monotonic, self._record, self._report, self._settings.failures_max)

    def _main(self, engine: Engine) -> None:
        try:
            self._load(engine)
            self._wake()
            assert self.runner is not None  # noqa: S101  just loaded
            self._serve(self.runner)
        except BaseException as error:  # noqa: BLE001  the I/O thread says what it was and exits
            self.failure = error
            self._wake()

    def _serve(self, runner: Runner) -> None:
        while not self._stopping:
            if not runner.busy:
                self._rest()
                continue
            outcomes = runner.turn()
            self._worked = True
            if outcomes:
                self.outcomes.extend(outcomes)
                self._wake()
            self._after_trim(runner)
            now = time.monotonic()
            if now >= self._measure_due:
                self._measure(now)

    def _rest(self) -> None:
        """Wait for something to do, or until the engine or what the last steps changed is to be looked at again."""
        assert self.engine is not None  # noqa: S101  it is loaded
        now = time.monotonic()
        again = self.engine.idle(now)
        waits = [] if again is None else [again]
        if self._worked:
            waits.append(max(0.0, self._measure_due - now))
        if self._go.wait(min(waits, default=None)):
            self._go.clear()
        else:
            self._measure(time.monotonic())

    def _after_trim(self, runner: Runner) -> None:
        """Give back what the engine freed, and measure at once: whoever asked for it looks at the next beat."""
        level = runner.trimmed
        if level is None:
            return
        runner.trimmed = None
        returned = level > 0 and give_back()
        self._measure(time.monotonic())
        log("info", "trimmed", trim_level=level, returned=returned, rss=resident_bytes(), memory=self.memory)

    def _measure(self, now: float) -> None:
        assert self.engine is not None  # noqa: S101  it is loaded
        self._measure_due = now + MEASURE_S
        self._worked = False
        self.memory = self.engine.memory()
        self.counters = fit_counters(self.engine.counters())
