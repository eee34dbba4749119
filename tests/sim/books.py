"""What the oracle notes of one broker life: sessions, requests, workers and jobs, as their messages tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.entities import KEPT_PLACES
from mlx_mesh_wire.messages import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_broker.core.config import Config
    from mlx_mesh_wire import messages


class SessionBook:
    """A client as the broker knows it.

    Attributes:
        open: requests that have been sent and whose answer has not been.
        away: its connection is gone.
        kept: ids of messages that could not be sent and may go out a second time.
        told: ids of requests that were answered as soon as it came back; sent again meanwhile, they do not run again.
    """

    __slots__ = ("away", "kept", "key", "name", "open", "route", "told")

    def __init__(self, key: bytes, name: str, route: bytes) -> None:
        self.key = key
        self.name = name
        self.route = route
        self.open: dict[int, RequestBook] = {}
        self.away = False
        self.kept: set[int] = set()
        self.told: set[int] = set()


class RequestBook:
    """A request from its arrival to its answer.

    Attributes:
        job: the attempt under way.
        attempts: number of the last one; ``fruitless`` are those since it last got on.
        fresh: chunks of this attempt that went to the client.
        deaths: workers that died of it since it last got on.
        lost: an attempt ended without an answer and was not returned, so it may have had its effects.
        settled: its answer waits for the client to come back.
    """

    __slots__ = (
        "attempts", "deaths", "due", "flags", "frames", "fresh", "fruitless", "id", "job", "lane", "lost", "model",
        "op", "session", "settled", "stream",
    )  # fmt: skip

    def __init__(self, session: SessionBook, message: messages.Request, frames: Sequence[bytes], now: float) -> None:
        self.session = session
        self.id = message.request_id
        self.op = message.op
        self.model = message.model
        self.lane = message.lane
        self.flags = message.flags
        self.stream = bool(message.window or message.seen)
        self.frames = frames
        self.due = now + message.remaining_ms / 1000
        self.job: JobBook | None = None
        self.attempts = 0
        self.fruitless = 0
        self.fresh = 0
        self.deaths = 0
        self.lost = False
        self.settled = False

    def __str__(self) -> str:
        return f"request {self.session.name}/{self.id} ({self.op!r}, {self.model!r}, lane {self.lane})"

    def same_content(self, other: RequestBook) -> bool:
        """Whether one result answers both."""
        same = self.op == other.op and self.model == other.model
        return same and [bytes(f) for f in self.frames] == [bytes(f) for f in other.frames]


class JobBook:
    """A job that a worker holds; ``request`` changes when another one inherits the computation."""

    __slots__ = ("id", "request", "worker")

    def __init__(self, job_id: int, request: RequestBook, worker: WorkerBook) -> None:
        self.id = job_id
        self.request = request
        self.worker = worker


class WorkerBook:
    """A worker as the broker knows it.

    Attributes:
        state: by the broker's log, which it writes in order with its messages.
        quiet: it has been told to drain, or has said that it does (``said_quiet``).
        brought: what it said it holds from before; it may be asked for that whatever its state.
        running: job ids that its last beat named.
        heard: when it last said something, moved on by the time that the broker did not run.
        loading_since: when it began to load, moved on likewise; it may load for ``load_max_s``.
    """

    __slots__ = (
        "because", "brought", "bulk", "bulk_capacity", "capacity", "heard", "instance", "jobs", "load_max_s",
        "loading_since", "loads", "models", "name", "ops", "pid", "quiet", "remote", "route", "running", "said_quiet",
        "slots", "state",
    )  # fmt: skip

    def __init__(self, route: bytes, info: Any, remote: bool) -> None:
        self.route = route
        self.instance = info.instance
        self.name = info.name
        self.pid = info.pid
        self.remote = remote
        self.state = "loading"
        self.because = ""
        self.quiet = False
        self.said_quiet = False
        self.jobs: dict[int, JobBook] = {}
        self.bulk = 0
        self.brought: set[tuple[bytes, int]] = set()
        self.running: frozenset[int] = frozenset()
        self.heard = 0.0
        self.loading_since = 0.0
        self.loads = False

    def describe(self, info: Any, config: Config) -> None:
        """Take over what READY or LOADING says."""
        self.ops = frozenset(info.ops)
        self.models = frozenset(info.models)
        self.slots = info.slots
        self.capacity = info.slots + config.prefetch
        self.load_max_s = min(info.load_max_ms / 1000 or config.load_max_s, config.load_max_s)
        self.bulk_capacity = info.bulk_slots or self.capacity - min(KEPT_PLACES, info.slots // 4)

    def serves(self, op: str, model: str) -> bool:
        """Whether it said that it serves the op on the model."""
        return op in self.ops and (not model or not self.models or model in self.models)

    def take(self, job_id: int) -> JobBook | None:
        """Remove a job; None if it does not hold it."""
        job = self.jobs.pop(job_id, None)
        if job is not None:
            request = job.request
            if request.job is job:
                request.job = None
            if request.lane == Lane.BULK:
                self.bulk -= 1
        return job

    def blamed(self) -> list[JobBook]:
        """Return the jobs that it was computing as of its last beat; all that it holds, if that named none of them."""
        named = [job for job_id, job in self.jobs.items() if job_id in self.running]
        return named or list(self.jobs.values())
