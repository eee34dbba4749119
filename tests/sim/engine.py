"""What a worker computes with: slots, waiting jobs, and time that passes. It stands for the runner and an engine."""

from __future__ import annotations

from collections import deque
from heapq import heappush
from struct import unpack
from typing import TYPE_CHECKING, Any

from mlx_mesh_wire import DeadlineExceededError, EngineError, MeshOutOfMemoryError, OverloadedError
from mlx_mesh_worker.runner import Done, Piece, Returned
from mlx_mesh_worker.session_actions import Send
from tests.sim import bodies

if TYPE_CHECKING:
    from mlx_mesh_worker.job import Job

PAST_MAX = 32
CHUNK_TOKENS = 2
"""Tokens in a chunk of a stream that does not go on from a state: each attempt has to give the same chunks."""


class Engine:
    """Computes as many jobs at once as there are slots.

    Attributes:
        running: jobs under way, with the next token of those that are streams.
        waiting: jobs that have no slot yet.
        blocked: streams whose reader has no room.
        frozen: nothing advances, though the process lives.
        deferred: what would have been done while it was frozen or paused.
        cut: jobs that were cancelled within a step, which ends when it would have ended.
        progress: steps so far, and cancels that left nothing to do, as the runner counts them.
    """

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.scheduler = worker.scheduler
        self.random = worker.random.random
        self.slots = worker.plan.slots
        self.oracle = worker.world.oracle
        self.resumes = worker.world.swarm.resumes
        self.frozen = False
        self.step = self._step
        self.reset()

    def reset(self) -> None:
        """Begin with nothing, in another process."""
        self.running: dict[Job, int] = {}
        self.waiting: deque[Job] = deque()
        self.blocked: dict[Job, None] = {}
        self.deferred: list[Job] = []
        self.cut: set[Job] = set()
        self.alone = False
        self.frozen = False
        self.obeys = False
        self.progress = 0

    def admit(self, job: Job) -> None:
        """Take in a job."""
        worker = self.worker
        self.oracle.admitted(worker, job)
        if worker.scheduler.now + worker.offset_s >= job.deadline:
            self._fail(job, DeadlineExceededError("expired"))
            return
        self.waiting.append(job)

    def cancel(self, job: Job) -> None:
        """Forget a job."""
        if job in self.running:
            if job not in self.blocked:
                self.cut.add(job)
            self._stop(job)
        elif job in self.waiting:
            self.waiting.remove(job)
        if not (self.running or self.waiting or self.cut):
            self.obeys = self.frozen
            self.progress += not self.frozen

    def withdraw(self, job: Job) -> None:
        """Give a job back that has not begun."""
        if job in self.waiting:
            self.waiting.remove(job)
            self.worker.session.outcome(self.worker.now, Returned(job))

    def pump(self) -> None:
        """Begin what there are slots for."""
        waiting, running = self.waiting, self.running
        now = self.worker.now
        while waiting and len(running) < self.slots and not self.alone:
            job = waiting[0]
            if job.alone and running:
                return
            waiting.popleft()
            if now >= job.deadline:
                self._fail(job, DeadlineExceededError("expired"))
                self.worker.flush()
                return
            self._begin(job, now)

    def _begin(self, job: Job, now: float) -> None:
        self.oracle.begun(self.worker, job)
        job.started = now
        self.alone = job.alone
        body = job.frames[0]
        first = 0
        if job.state is not None:
            have = list(unpack(f"<{len(job.state) // 4}I", job.state))
            base = bodies.content_of(body) % 1000 * 1000
            if have != list(range(base, base + len(have))):
                raise AssertionError(f"a state of {have} for the text {bodies.content_of(body)}")
            first = len(have)
        self.running[job] = first
        self._later(job, bodies.cost_of(body))

    def _later(self, job: Job, cost_s: float) -> None:
        scheduler = self.scheduler
        scheduler.number = number = scheduler.number + 1
        heappush(scheduler.heap, (scheduler.now + cost_s * self.worker.slow, number, self.step, job))

    def _step(self, job: Job) -> None:
        worker = self.worker
        if job not in self.running and job not in self.cut:
            return
        if self.frozen or worker.stopped:
            self.deferred.append(job)
            return
        self.progress += 1
        if self.cut and job in self.cut:
            self.cut.remove(job)
            return
        now = self.scheduler.now + worker.offset_s
        kind = bodies.kind_of(job.frames[0])
        if kind == bodies.PLAIN:
            self._answer(job, now)
        elif job.stream:
            self._token(job, now)
        else:
            self._odd(job, now, kind)
        if worker.alive:
            worker.flush()

    def _answer(self, job: Job, now: float) -> None:
        self._stop(job)
        worker = self.worker
        done = Done(job, bodies.answer(job.frames[0], job.model), None, now)
        self.oracle.computed(worker, job)
        worker.session.outcome(now, done)
        if worker.world.swarm.forging and worker.session.actions:
            last = worker.session.actions[-1]
            if type(last) is Send and type(last.message) is bodies.Final:
                worker.past.append(last.message)
                del worker.past[:-PAST_MAX]

    def _token(self, job: Job, now: float) -> None:
        worker = self.worker
        if job.blocked:
            self.blocked[job] = None
            return
        if now >= job.deadline:
            self._stop(job)
            self._fail(job, DeadlineExceededError("expired"))
            return
        body = job.frames[0]
        content, count = bodies.content_of(body), bodies.text_of(body)
        first = self.running[job]
        size = 1 + int(self.random() * bodies.CHUNK_MAX) if job.resumable and self.resumes else CHUNK_TOKENS
        end = min(count - 1, first + size)
        if first < end:
            self.running[job] = end
            worker.session.outcome(now, Piece(job, bodies.tokens(content, first, end)))
            self._later(job, bodies.cost_of(body) * (end - first))
        else:
            self._stop(job)
            self.oracle.computed(worker, job)
            worker.session.outcome(now, Done(job, bodies.tokens(content, first, count), None, now))

    def _odd(self, job: Job, now: float, kind: int) -> None:
        worker = self.worker
        world = worker.world
        if kind == bodies.POISON or (kind == bodies.CRASH and job.attempt == 1):
            world.poisoned += 1
            worker.die(world.restart_s(), recorded=world.swarm.recorder)
            return
        if kind == bodies.CRASH:
            self._answer(job, now)
            return
        self._stop(job)
        if kind == bodies.BROKEN:
            self._fail(job, EngineError("broken"))
        elif kind == bodies.NO_MEMORY:
            self._fail(job, MeshOutOfMemoryError("no memory"))
        else:
            self._fail(job, OverloadedError("busy", retryable=True))

    def _stop(self, job: Job) -> None:
        del self.running[job]
        self.blocked.pop(job, None)
        if job.alone:
            self.alone = False

    def _fail(self, job: Job, error: Any) -> None:
        self.oracle.computed(self.worker, job)
        now = self.worker.now
        self.worker.session.outcome(now, Done(job, (), error, now))

    def unblock(self) -> None:
        """Go on with streams whose reader has room again."""
        for job in [job for job in self.blocked if not job.blocked]:
            del self.blocked[job]
            self._step(job)

    def thaw(self) -> None:
        """Go on after having been frozen or paused."""
        self.frozen = False
        self.progress += self.obeys
        self.obeys = False
        deferred, self.deferred = self.deferred, []
        for job in deferred:
            self._step(job)
