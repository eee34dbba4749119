"""The worker's side of the protocol: what it holds, what it owes. No socket, clock or thread inside.

Every method takes the time, changes the session, and puts what is to be done into ``actions``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_mesh_wire import Flag, SlowConsumerError, WorkerLostError, limits, messages
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Admit, Cancel, Done, Outcome, Piece, Returned, Trim, Withdraw
from mlx_mesh_worker.sent import SentResults
from mlx_mesh_worker.session_actions import Action, Dump, Leave, Reconnect, Renamed, Send, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_wire.body import Frame
    from mlx_mesh_wire.messages import Message

BACKLOG_MAX = 1024
"""Chunks that wait for credit before the job is ended: an engine that heeds ``job.blocked`` never comes near."""

DEFAULT_INTERVALS_MS = {"beat_ms": 1000, "ping_ms": 1000, "silent_ms": 5000}
IMPATIENT_S = 0.2
"""How often a broker that has fallen silent is pinged, so that its return is noticed soon."""


class Vitals(NamedTuple):
    """What a beat reports besides the session's own figures."""

    progress: int
    running: Sequence[int]
    warm: Sequence[str]
    memory: dict[str, int]
    counters: dict[str, int]


class Session:
    """One worker, over all its connections.

    Args:
        info: what READY says; LOADING says the same with ``load_max_ms``.
        now: seconds of a monotonic clock, as in every later call.
        resumes: whether the engine goes on with streams from their state.

    Attributes:
        actions: what is to be done; the shell takes it out.
        ready: loaded and warmed up.
        draining: takes nothing new.
    """

    def __init__(self, info: messages.Ready, now: float, *, resumes: bool = False) -> None:
        self._info = info
        self._resumes = resumes
        self.jobs: dict[int, Job] = {}
        self._by_key: dict[tuple[bytes, int], Job] = {}
        self._sent = SentResults()
        self._leaving = False
        self._epoch = ""
        self._intervals = dict(DEFAULT_INTERVALS_MS)
        self._heard = now
        self._beat_due = now
        self._ping_due = now
        self._greeted = now
        self._welcomed = True
        self.actions: list[Action] = []
        self.ready = False
        self.draining = False
        self._on: dict[type, Callable[[float, Any, Sequence[bytes]], None]] = {
            messages.Job: self._job,
            messages.Cancel: self._cancel,
            messages.Credit: self._credit,
            messages.Quiet: self._quiet,
            messages.Trim: self._trim,
            messages.Dump: self._dump,
            messages.Welcome: self._welcome,
            messages.Reset: self._reset,
            messages.Ping: self._ping,
            messages.Bye: self._bye,
            messages.Error: self._error,
        }

    def take(self) -> list[Action]:
        """Return the actions so far and start anew."""
        actions, self.actions = self.actions, []
        return actions

    def connected(self, now: float) -> None:
        """A connection was made, or is to count as new: say who we are and what we hold.

        Streams end here: HELD does not name them, so the broker runs them again, and nobody would read or cancel these.
        """
        self._heard = self._greeted = now
        self._welcomed = False
        self._end_streams()
        held: list[list[bytes | int]] = [[*job.key, job.attempt] for job in self._by_key.values() if not job.stream]
        held += [[*key, done.job.attempt] for key, done in self._sent]
        for start in range(0, len(held), limits.HELD_MAX_ITEMS):
            self._send(messages.Held(self._info.instance, held[start : start + limits.HELD_MAX_ITEMS]))
        self._send(self._info if self.ready else messages.Loading(*self._info))
        if self.draining:
            self._send(messages.Quiet(True))
        if self._leaving:
            self._leave_if_done()

    def loaded(self, info: messages.Ready, now: float) -> None:
        """The engine is warm: tell the broker."""
        self._info = info
        self.ready = True
        self.connected(now)

    def message(self, now: float, message: Message, frames: Sequence[bytes]) -> None:
        """Handle a message from the broker; types that do not concern a worker are ignored."""
        self._heard = now
        handler = self._on.get(type(message))
        if handler is not None:
            handler(now, message, frames)

    def outcome(self, now: float, outcome: Outcome) -> None:
        """Handle what the runner made of a job."""
        job = outcome.job
        if self._by_key.get(job.key) is not job:
            return
        if type(outcome) is Piece:
            self._piece(job, outcome)
        elif type(outcome) is Returned:
            self._forget(job)
            if job.id > 0:
                self._send(messages.Return(job.id, "draining"))
        elif job.backlog:
            job.ended = outcome  # type: ignore[assignment]
        else:
            self._finish(now, outcome)  # type: ignore[arg-type]
        if self._leaving:
            self._leave_if_done()

    def tick(self, now: float, vitals: Callable[[], Vitals]) -> None:
        """Beat, ping and judge the broker's silence, as far as each is due."""
        silence = now - self._heard
        if silence >= self._intervals["silent_ms"] / 1000:
            self._heard = now
            self._enter("")  # Who answers may be another broker, and the same one asks again for what is held.
            self.actions.append(Reconnect())
            return
        if now >= self._beat_due:
            self._beat_due = now + self._intervals["beat_ms"] / 1000
            self._beat(vitals())
            self._sent.drop(now)
        if silence >= self._intervals["ping_ms"] / 1000 and now >= self._ping_due:
            self._ping_due = now + IMPATIENT_S
            self._send(messages.Ping(1))

    def next_tick(self) -> float:
        """Return when ``tick`` has something to do."""
        return min(self._beat_due, max(self._heard + self._intervals["ping_ms"] / 1000, self._ping_due))

    def drain(self, now: float) -> None:
        """Finish what has begun, give back the rest, then leave."""
        self._leaving = True
        self.draining = True
        self._send(messages.Quiet(True))
        self._withdraw_all()
        self._leave_if_done()

    def abandon(self, reason: str) -> None:
        """Leave at once: give back what has not begun; the goodbye tells the broker to run the rest elsewhere too."""
        for job in list(self.jobs.values()):
            self.actions.append(Cancel(job))
            self._forget(job)
            if not job.started and job.id > 0:
                self._send(messages.Return(job.id, reason))
        self._send(messages.Bye(reason))
        self.actions.append(Leave())

    def _send(self, message: Message, frames: Sequence[Frame] = ()) -> None:
        self.actions.append(Send(message, frames))

    def _job(self, now: float, message: messages.Job, frames: Sequence[bytes]) -> None:
        key = (message.session, message.request_id)
        held = self._by_key.get(key)
        if held is not None and not held.stream:
            self._adopt(now, held, message)
            return
        if held is not None:
            self.actions.append(Cancel(held))
            self._forget(held)
        job = Job(message, frames, now, resumes=self._resumes)
        if key in self._sent:
            self._send_again(now, key, job)
        elif message.flags & Flag.AT_MOST_ONCE and message.flags & Flag.RESEND:
            self._send_error(
                job, WorkerLostError("this worker does not hold the request, which must not run again"), ()
            )
        elif self.draining:
            self._send(messages.Return(job.id, "draining"))
        else:
            self.jobs[job.id] = job
            self._by_key[key] = job
            self.actions.append(Admit(job))

    def _adopt(self, now: float, job: Job, message: messages.Job) -> None:
        self.jobs.pop(job.id, None)
        job.id = message.job_id
        job.attempt = message.attempt
        job.deadline = now + message.remaining_ms / 1000
        self.jobs[job.id] = job
        self.actions.append(Renamed())

    def _enter(self, epoch: str) -> None:
        """Leave the ids of the last epoch behind, since they mean other jobs in this one.

        What is held has ids below zero until the broker asks for it; a stream has to begin again, so it ends here.
        """
        if epoch == self._epoch:
            return
        self._epoch = epoch
        held, self.jobs = list(self.jobs.values()), {}
        for job in held:
            job.id = -1 - len(self.jobs)
            self.jobs[job.id] = job
            if job.stream:
                self.actions.append(Cancel(job))
                self._forget(job)
        if held:
            self.actions.append(Renamed())

    def _end_streams(self) -> None:
        for job in [job for job in self.jobs.values() if job.stream]:
            self.actions.append(Cancel(job))
            self._forget(job)

    def _send_again(self, now: float, key: tuple[bytes, int], job: Job) -> None:
        job.started = job.accepted = now
        again = self._sent.take(key)._replace(job=job, finished=now)
        self._answer(again)
        self._sent.keep(now, again, self._info.slots)

    def _cancel(self, now: float, message: messages.Cancel, frames: Sequence[bytes]) -> None:
        job = self.jobs.get(message.id)
        if job is not None:
            self.actions.append(Cancel(job))
            self._forget(job)
            if self._leaving:
                self._leave_if_done()

    def _credit(self, now: float, message: messages.Credit, frames: Sequence[bytes]) -> None:
        job = self.jobs.get(message.id)
        if job is None:
            return
        job.credit = min(job.credit + message.chunks, 2 * limits.WINDOW_MAX_CHUNKS)
        while job.backlog and job.credit:
            self._send_chunk(job, job.backlog.popleft())
        if job.ended is not None and not job.backlog:
            self._finish(now, job.ended)

    def _quiet(self, now: float, message: messages.Quiet, frames: Sequence[bytes]) -> None:
        self.draining = message.on or self._leaving
        if message.on:
            self._withdraw_all()

    def _trim(self, now: float, message: messages.Trim, frames: Sequence[bytes]) -> None:
        self.actions.append(Trim(message.level))

    def _dump(self, now: float, message: messages.Dump, frames: Sequence[bytes]) -> None:
        self.actions.append(Dump(message.reason))

    def _welcome(self, now: float, message: messages.Welcome, frames: Sequence[bytes]) -> None:
        self._welcomed = True
        self._enter(message.epoch)
        self._intervals.update((k, v) for k, v in message.intervals.items() if k in self._intervals and v > 0)

    def _reset(self, now: float, message: messages.Reset, frames: Sequence[bytes]) -> None:
        # Each message that was on its way before READY is answered by a RESET; a READY for each would have the broker
        # begin all jobs anew as often. One that comes much later means that the READY was lost with its connection.
        if message.epoch == self._epoch and not self._welcomed and now - self._greeted < IMPATIENT_S:
            return
        self._enter(message.epoch)
        self.connected(now)

    def _ping(self, now: float, message: messages.Ping, frames: Sequence[bytes]) -> None:
        self._send(messages.Pong(message.nonce))

    def _bye(self, now: float, message: messages.Bye, frames: Sequence[bytes]) -> None:
        """The broker does not want this worker (another protocol version); it may be replaced, so keep trying."""
        self.actions.append(Told(message))

    def _error(self, now: float, message: messages.Error, frames: Sequence[bytes]) -> None:
        self.actions.append(Told(message))

    def _piece(self, job: Job, piece: Piece) -> None:
        if not job.stream:
            return
        if job.credit and not job.backlog:
            self._send_chunk(job, piece.frames)
            return
        job.backlog.append(piece.frames)
        if len(job.backlog) > BACKLOG_MAX:
            self.actions.append(Cancel(job))
            self._forget(job)
            self._send_error(job, SlowConsumerError(f"over {BACKLOG_MAX} chunks wait for the reader"), ())

    def _send_chunk(self, job: Job, frames: Sequence[Frame]) -> None:
        job.credit -= 1
        self._send(messages.Chunk(job.id, job.seq), frames)
        job.seq += 1

    def _finish(self, now: float, done: Done) -> None:
        self._forget(done.job)
        self._answer(done)
        if not done.job.stream:
            self._sent.keep(now, done, self._info.slots)

    def _answer(self, done: Done) -> None:
        job = done.job
        if job.id < 0:
            return  # The broker of this epoch has not asked yet; it will, and gets what is kept.
        if done.error is not None:
            self._send_error(job, done.error, done.frames)
            return
        started = job.started or done.finished
        queue_us = max(0, int((started - job.accepted) * 1e6))
        service_us = max(0, int((done.finished - started) * 1e6))
        self.actions.append(Send(messages.Final(job.id, job.attempt, queue_us, service_us, 0, job.seq), done.frames))

    def _send_error(self, job: Job, error: Any, frames: Sequence[Frame]) -> None:
        text = error.message[: limits.ERROR_MESSAGE_MAX_CHARS]
        self._send(messages.Error(job.id, error.code, text, error.retryable, error.retry_after_ms), frames)

    def _forget(self, job: Job) -> None:
        self.jobs.pop(job.id, None)
        del self._by_key[job.key]

    def _withdraw_all(self) -> None:
        self.actions.extend(Withdraw(job) for job in self.jobs.values() if not job.started)

    def _leave_if_done(self) -> None:
        if not self.jobs:
            self._send(messages.Bye("drained"))
            self.actions.append(Leave())

    def _beat(self, vitals: Vitals) -> None:
        running = list(vitals.running)[: limits.LIST_MAX_ITEMS]
        warm = list(vitals.warm)[: limits.LIST_MAX_ITEMS] if self.ready else []
        held = len(self.jobs)
        self._send(messages.Beat(vitals.progress, held, self.draining, running, warm, vitals.memory, vitals.counters))
