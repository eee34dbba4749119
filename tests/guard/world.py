"""A machine with workers, a broker and a supervisord that obeys the guard: enough to run the policy for hours."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from mlx_mesh_wire.guard_report import Limit
from mlx_mesh_worker.guard.actions import Action, AddStandIn, Dump, Kill, Quiet, Remove, Restart, Start, Trim
from mlx_mesh_worker.guard.policy import decide
from mlx_mesh_worker.guard.samples import ProcessSample, Sample, Signals, WorkerSample
from mlx_mesh_worker.guard.settings import GuardSettings
from mlx_mesh_worker.guard.state import State

MIB = 1024 * 1024


@dataclass
class Process:
    """A worker process and what it does to the machine. Times are in seconds of the world's clock."""

    name: str
    group: str
    op: str = "op"
    base_mib: float = 200.0
    leak_mib_s: float = 0.0
    load_s: float = 2.0
    drain_s: float = 1.0
    state: str = "RUNNING"
    pid: int = 0
    started: float = 0.0
    ready_at: float = 0.0
    drained_at: float | None = None
    drained_by: str = ""
    gone_at: float | None = None
    footprint: float = 0.0
    frozen: bool = False
    stalled: bool = False
    broken: bool = False
    stand_in: bool = False
    restarting: bool = False
    remove: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.group}:{self.name}"


@dataclass
class World:
    """Steps all of it by a second, and keeps what the guard did, each with its time and the sample it was done on."""

    settings: GuardSettings = field(default_factory=GuardSettings)
    processes: list[Process] = field(default_factory=list)
    limit_mib: float = 2000.0
    others_mib: float = 100.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    broker_away_until: float = 0.0
    supervisord_away_until: float = 0.0
    stand_ins_break: bool = False
    now: float = 1000.0
    done: list[tuple[float, Action, Sample]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = State(self.settings)
        self._pids = 100
        for process in self.processes:
            self.spawn(process)
            process.ready_at = self.now

    def spawn(self, process: Process) -> None:
        self._pids += 1
        process.state, process.pid, process.started = "RUNNING", self._pids, self.now
        process.ready_at = self.now + process.load_s
        process.footprint = process.base_mib / 2
        process.drained_at = process.gone_at = None
        process.drained_by = ""
        process.frozen = process.stalled = process.restarting = False

    def add(self, name: str, group: str = "workers", **how: float | str) -> Process:
        process = Process(name, group, **how)  # type: ignore[arg-type]
        self.processes.append(process)
        self.spawn(process)
        process.ready_at, process.footprint = self.now, process.base_mib
        return process

    def sample(self) -> Sample:
        limits = [Limit("ram", int((self.others_mib + self.taken()) * MIB), int(self.limit_mib * MIB))]
        workers = [self._worker(p) for p in self.processes if p.state == "RUNNING" and not p.frozen]
        processes = [
            ProcessSample(
                p.name,
                p.group,
                p.state,
                p.pid,
                self.now - p.started if p.pid else 0.0,
                True,
                stand_in=p.stand_in,
                restarting=p.restarting,
                reason="it broke" if p.state == "FATAL" else "",
            )
            for p in self.processes
        ]
        broker, supervisord = self.now >= self.broker_away_until, self.now >= self.supervisord_away_until
        return Sample(
            limits,
            Signals(),
            workers if broker else None,
            processes if supervisord else None,
            1000.0 if broker else 0.0,
        )

    def taken(self) -> float:
        return sum(p.footprint for p in self.processes)

    def _worker(self, process: Process) -> WorkerSample:
        ready = self.now >= process.ready_at
        state = "ready" if ready else "loading"
        if process.drained_at is not None:
            state = "draining"
        elif process.stalled and ready:
            state = "stalled"
        held = 1 if process.drained_at is None or self.now < process.drained_at else 0
        serves = frozenset({(process.op, process.group)})
        return WorkerSample(
            process.name,
            process.pid,
            state,
            serves,
            held,
            int(self.now - process.started),
            self.now - process.started,
            False,
            process.drained_by,
            int(process.footprint * MIB),
            {"rss_ready": int(process.base_mib * MIB)} if ready else {},
        )

    def new_guard(self) -> None:
        """Have the guard die: its successor remembers nothing."""
        self.state = State(self.settings)

    def new_broker(self) -> None:
        """Have the broker die: its successor knows of nobody that he drains but of those that were told to leave."""
        for process in self.processes:
            if process.state == "RUNNING":
                process.drained_at, process.drained_by = None, ""

    def serving(self, op: str = "op", group: str = "workers") -> list[str]:
        """Return who would be given a call."""
        return [
            p.name
            for p in self.processes
            if (p.op, p.group) == (op, group)
            and p.state == "RUNNING"
            and p.drained_at is None
            and self.now >= p.ready_at
            and not (p.frozen or p.stalled)
        ]

    def step(self) -> list[Action]:
        self.now += 1.0
        for process in list(self.processes):
            self._live(process)
        sample = self.sample()
        actions = decide(sample, self.state, self.now)
        for action in actions:
            self.done.append((self.now, action, sample))
            self._obey(action)
        return actions

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.step()

    def _live(self, process: Process) -> None:
        if process.gone_at is not None and self.now >= process.gone_at:
            self._leave(process)
        if process.state != "RUNNING":
            return
        if process.broken and self.now >= process.started + 1:
            self._leave(process, "FATAL")
        elif self.now < process.ready_at:
            process.footprint = process.base_mib / 2
        else:
            growth = 0.0 if process.drained_at is not None or process.frozen else process.leak_mib_s
            process.footprint = max(process.footprint, process.base_mib) + growth

    def _leave(self, process: Process, state: str = "STOPPED") -> None:
        process.state, process.pid, process.footprint, process.gone_at = state, 0, 0.0, None
        if process.remove:
            self.processes.remove(process)
        elif process.restarting:
            self.spawn(process)

    def _obey(self, action: Action) -> None:
        if isinstance(action, AddStandIn):
            if self.now >= self.supervisord_away_until:
                self._add_stand_in(self.named(action.process))
        elif isinstance(action, Quiet):
            for process in self.processes:
                if (process.name, process.pid) == (action.worker, action.pid) and self.now >= self.broker_away_until:
                    process.drained_at, process.drained_by = self.now + process.drain_s, "guard"
        elif isinstance(action, Restart | Start | Kill | Remove | Dump):
            process = self.named(action.process)
            if isinstance(action, Start) or (isinstance(action, Restart) and process.state != "RUNNING"):
                self.spawn(process)
            elif isinstance(action, Restart):
                process.restarting, process.state = True, "STOPPING"
                if not process.frozen:
                    process.gone_at = self.now + (0.5 if action.hurry else process.drain_s)
            elif isinstance(action, Kill):
                process.gone_at = self.now
            elif isinstance(action, Remove):
                process.remove, process.state, process.gone_at = True, "STOPPING", self.now + process.drain_s
        else:
            assert not isinstance(action, Trim) or action.level in (0, 1, 2)

    def _add_stand_in(self, beside: Process) -> None:
        number = max(int(p.name.rpartition("-")[2]) for p in self.processes if p.group == beside.group) + 1
        name = f"{beside.group}-{number}"
        added = Process(name, beside.group, beside.op, beside.base_mib, 0.0, beside.load_s, stand_in=True)
        added.broken = self.stand_ins_break
        self.processes.append(added)
        self.spawn(added)

    def named(self, full_name: str) -> Process:
        return next(process for process in self.processes if process.full_name == full_name)

    def actions(self, kind: type) -> list[Action]:
        return [action for _, action, _ in self.done if isinstance(action, kind)]

    def said(self, event: str) -> list[dict[str, object]]:
        return [dict(a.fields) for _, a, _ in self.done if getattr(a, "event", "") == event]
