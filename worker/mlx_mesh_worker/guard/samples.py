"""What the guard knows at one moment; ``policy.decide`` gets this and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlx_mesh_wire.guard_report import Limit


class Signals(NamedTuple):
    """What the operating system says of memory; None for what it does not tell.

    Attributes:
        psi_some: Linux, share of the last 10 s in which some task waited for memory, in percent.
        psi_full: the same for all tasks at once.
        swap_used: bytes of swap in use, on macOS those of the compressor too.
        level: macOS, ``kern.memorystatus_vm_pressure_level``: 1 normal, 2 warning, 4 critical.
    """

    psi_some: float | None = None
    psi_full: float | None = None
    swap_used: int | None = None
    level: int | None = None


class WorkerSample(NamedTuple):
    """A worker as the broker sees it, and what its process takes.

    Attributes:
        name: as in ``mlx-mesh status``.
        pid: of its process.
        state: ``loading``, ``ready``, ``suspect``, ``stalled`` or ``draining``.
        serves: pairs of op and model; the model is empty for a worker that lists none.
        held: jobs that it holds.
        served: jobs that it has finished since it joined.
        uptime_s: seconds since it joined.
        remote: on another machine than the broker.
        drained_by: who had it drained: ``operator``, ``guard``, ``worker``; empty if nobody.
        footprint: bytes that its process takes; None if that cannot be told.
        memory: bytes by kind, as its last beat says.
    """

    name: str
    pid: int
    state: str
    serves: frozenset[tuple[str, str]]
    held: int
    served: int
    uptime_s: float
    remote: bool
    drained_by: str
    footprint: int | None
    memory: Mapping[str, int]


class ProcessSample(NamedTuple):
    """A process as supervisord sees it.

    Attributes:
        name: of the process; a worker's is the name that it has in the broker.
        group: of supervisord.
        state: ``STOPPED``, ``STARTING``, ``RUNNING``, ``BACKOFF``, ``STOPPING``, ``EXITED``, ``FATAL`` or ``UNKNOWN``.
        pid: 0 without a process.
        running_s: seconds since it was started; 0 without a process.
        worker: whether it is one of ``mlx-mesh-worker`` in a group that the guard looks after.
        broker: whether it is ``mlx-mesh-broker``.
        stand_in: added for the time of a recycle.
        restarting: supervisord is about to start it again.
        reason: why it does not run, in words; empty if it does.
    """

    name: str
    group: str
    state: str
    pid: int
    running_s: float
    worker: bool
    broker: bool = False
    stand_in: bool = False
    restarting: bool = False
    reason: str = ""

    @property
    def full_name(self) -> str:
        """The name that supervisord takes for a process in any group."""
        return f"{self.group}:{self.name}"


class Sample(NamedTuple):
    """All of it.

    Attributes:
        limits: bounds of memory that are known now.
        signals: of the operating system.
        workers: None while the broker does not answer.
        processes: None while supervisord does not answer.
        broker_up_s: age of the broker; 0 while it does not answer.
        stopping: supervisord is stopping everything.
    """

    limits: Sequence[Limit]
    signals: Signals
    workers: Sequence[WorkerSample] | None
    processes: Sequence[ProcessSample] | None
    broker_up_s: float = 0.0
    stopping: bool = False

    @property
    def tightest(self) -> Limit | None:
        """The bound of which most is taken; None if none is known."""
        return max(self.limits, key=lambda limit: limit.ratio, default=None)


def worker_of(process: ProcessSample, sample: Sample) -> WorkerSample | None:
    """Return the worker by its pid: somebody may have started another one of its name by hand."""
    return next((worker for worker in sample.workers or () if worker.pid == process.pid and not worker.remote), None)


def ready(sample: Sample) -> Iterator[WorkerSample]:
    """Return the workers that get new work, those of other machines too: their pids are not of this one."""
    return (worker for worker in sample.workers or () if worker.state == "ready")
