"""The bugs to plant: name, sentence, where, and the text before and after.

``seed`` is one that is known to find it soon, so that the test-suite need not look for long.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlx_mesh._pending import Pending
from mlx_mesh._session import Session as ClientSession
from mlx_mesh_broker.core import admission, queues
from mlx_mesh_broker.core.admission import Admission
from mlx_mesh_broker.core.answers import Answers
from mlx_mesh_broker.core.broker import Broker
from mlx_mesh_broker.core.clients import Clients
from mlx_mesh_broker.core.dispatch import Dispatcher
from mlx_mesh_broker.core.entities import Worker
from mlx_mesh_broker.core.jobs import Jobs
from mlx_mesh_broker.core.liveness import Liveness
from mlx_mesh_broker.core.overload import Overload
from mlx_mesh_broker.core.pool import Pool
from mlx_mesh_broker.core.queues import Queue
from mlx_mesh_broker.core.sessions import Sessions
from mlx_mesh_broker.core.timers import Timers
from mlx_mesh_broker.core.workers import Workers
from mlx_mesh_wire.messages import Flag
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.session import Session as WorkerSession


class Change(NamedTuple):
    """In ``owner.name`` the text ``old`` becomes ``new``; where ``old`` is None, ``new`` is the value."""

    owner: Any
    name: str
    old: str | None
    new: Any


class Bug(NamedTuple):
    """A bug."""

    name: str
    sentence: str
    change: Change
    seed: int = 0


def _bug(name: str, sentence: str, *change: Any) -> Bug:
    return Bug(name, sentence, Change(*change), SEEDS.get(name, 0))


SEEDS: dict[str, int] = {
    "attempts_off_by_one": 406,
    "bulk_starves": 29,
    "bytes_leak": 156,
    "cache_without_model": 54,
    "cancel_forgotten": 52,
    "cancel_not_obeyed": 52,
    "cancelled_answered": 24,
    "chunk_twice": 95,
    "client_cap_off_by_one": 156,
    "clients_unfair": 52,
    "credit_not_granted": 14,
    "credit_not_passed_on": 14,
    "death_not_counted": 4,
    "double_send": 3,
    "drained_gets_work": 3,
    "duplicate_taken": 0,
    "evicts_its_peers": 22,
    "expired_twice": 3,
    "gap_accepted": 323,
    "heard_first": 386,
    "held_up_ignored": 35,
    "lane_weights": 152,
    "late_answer": 3,
    "leaked_bulk": 3,
    "leaked_slot": 0,
    "left_untold": 2,
    "loading_judged": 203,
    "lost_reply": 3,
    "lost_work_forgotten": 6,
    "not_fed": 3,
    "once_retried": 226,
    "one_death_more": 25,
    "one_follower": 9,
    "parked_forgotten": 3,
    "paused_lane": 3,
    "places_ignored": 35,
    "queue_cap_off_by_one": 22,
    "quiet_forgotten": 3,
    "ready_not_awaited": 221,
    "rejoin_forgotten": 221,
    "reload_cut_short": 238,
    "resend_forgotten": 3,
    "resent_dropped": 279,
    "reset_ignored": 0,
    "resumed_elsewhere": 14,
    "resumed_one_late": 156,
    "second_granted": 3,
    "shared_once": 109,
    "slot_too_many": 20,
    "suspect_not_alone": 4,
    "timer_left": 0,
    "two_workers": 193,
    "woken_early": 0,
    "wrong_peer": 22,
}
"""Where each is found soon: by ``python -m tests.sim.bugs``."""

ANSWERS = (
    _bug("lost_reply", "The result of a second attempt is told to nobody.", Jobs, "final",
         "self._answers.result(request, frames, message.service_us)",
         "request.attempts > 1 or self._answers.result(request, frames, message.service_us)"),
    _bug("double_send", "The result of a second attempt goes out twice.", Answers, "_final",
         "state.to_client(request.session, final, frames)",
         "[state.to_client(request.session, final, frames) for _ in range(min(request.attempts, 2))]"),
    _bug("wrong_peer", "Who shares a computation is answered where the one is who leads.", Answers, "result",
         "self._final(follower, frames, service_us, FinalFlag.SHARED)",
         "self._final(follower, frames, service_us, FinalFlag.SHARED)\n"
         "        for i, a in enumerate(self._state.out):\n"
         "            if type(a).__name__ == 'ToClient' and request.session.away is None:\n"
         "                self._state.out[i] = a._replace(route=request.session.route)"),
    _bug("one_follower", "Of those that share a computation only the first is answered.", Answers, "result",
         "for follower in followers:", "for follower in list(followers)[:1]:"),
    _bug("left_untold", "What waits of a client that is put out is left in its queue.", Sessions, "end",
         "self._dispatcher.drop(request, why)", "request.worker and self._dispatcher.drop(request, why)"),
    _bug("late_answer", "An answer for a job that is unknown is taken for that of another job.", Jobs, "final",
         "request = worker.jobs.get(message.id)",
         "request = worker.jobs.get(message.id) or next(iter(worker.jobs.values()), None)"),
    _bug("cache_without_model", "Results are shared by op and body, whatever the model.", Admission, "_shared",
         "content_key(request.op, request.model, request.frames)", 'content_key(request.op, "", request.frames)'),
    _bug("shared_once", "Work that must not run again is shared and cached.", admission, "_UNSHARED", None, Flag.FRESH),
    _bug("resent_dropped", "What is sent again is said never to have been taken in.", Sessions, "recognised",
         "_untold(message)", "message.request_id if type(message) is Request else 0"),
    _bug("duplicate_taken", "A request that is sent again is taken for a new one.", Admission, "request",
         "if known is not None:", "if known is not None and known.stream:"),
)  # fmt: skip

CAPS = (
    _bug("queue_cap_off_by_one", "A queue takes one request more than it may.", Overload, "of_queue",
         "queue.count < config.queue_max_requests", "queue.count <= config.queue_max_requests"),
    _bug("client_cap_off_by_one", "A client may have one request more outstanding.", Admission, "_refusal",
         "len(session.outstanding) >= state.config", "len(session.outstanding) > state.config"),
    _bug("bytes_leak", "The bytes of large requests that have ended still count.", Answers, "_forget",
         "state.large_bytes -= request.charged", "pass"),
    _bug("evicts_its_peers", "A full queue puts out requests of the lane of the new one.", Overload, "_victims",
         "each.below(lane)", "each.below(lane - 1)"),
    _bug("attempts_off_by_one", "A request is given in vain to one worker more.", Dispatcher, "take_back",
         "request.fruitless >= self", "request.fruitless > self"),
    _bug("places_ignored", "The client does not heed the places that WELCOME grants.", ClientSession, "_welcome",
         'message.limits.get("outstanding_max", OUTSTANDING)', "OUTSTANDING"),
)  # fmt: skip

TURNS = (
    _bug("lane_weights", "The lanes weigh 7:4:1.", queues, "LANE_PATTERN", None, (0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 2)),
    _bug("bulk_starves", "Each choice begins with the highest lane.", Queue, "_next_lane",
         "self.position = position", "self.position = 0"),
    _bug("clients_unfair", "A client goes on until it has nothing left in the lane.", queues._Lane, "pop",
         "self.clients.move_to_end(client)", "pass"),
    _bug("paused_lane", "A pause of a lane is not heeded by who has room.", Worker, "room",
         "if lane <= self.lowest else 0", "if lane <= self.lowest + 1 else 0"),
)  # fmt: skip

PLACES = (
    _bug("cancel_forgotten", "The worker is not told that nobody wants the answer.", Dispatcher, "_withdraw",
         "state.to_worker(worker, Cancel(request.job_id))", "pass"),
    _bug("leaked_slot", "A slot that falls free is not offered.", Dispatcher, "release",
         "self.changed(worker)", "pass"),
    _bug("leaked_bulk", "A bulk job that has ended still counts as one.", Dispatcher, "release",
         "worker.bulk -= request.lane == BULK", "pass"),
    _bug("slot_too_many", "A worker is given one job more than it may hold.", Pool, "note",
         "held >= worker.capacity", "held > worker.capacity"),
    _bug("drained_gets_work", "A worker that drains is offered like one that is ready.", Pool, "note",
         "worker.state is not _READY", "worker.state not in (_READY, WorkerState.DRAINING)"),
    _bug("quiet_forgotten", "A worker's own word that it drains is not heeded.", Liveness, "said_quiet",
         "self.drain(worker, ITSELF)", "pass"),
    _bug("heard_first", "A suspect gets work before it is read that it leaves.", Workers, "message",
         "handler = self._on.get(kind)", "handler = self._on.get(kind)\n"
         "    if worker.state is WorkerState.SUSPECT: self._liveness.turn(worker, Turn.HEARD)"),
    _bug("lost_work_forgotten", "What a lost worker held is left lying.", Liveness, "lose",
         "self.again(request, died=job_id in blamed)", "pass"),
    _bug("not_fed", "A worker that has answered gets no other job.", Jobs, "final",
         "self._dispatcher.feed(worker)", "pass"),
    _bug("two_workers", "A stalled worker goes on with what is run elsewhere.", Liveness, "_stalled",
         "self._state.to_worker(worker, Cancel(job_id))", "pass"),
)  # fmt: skip

LIVES = (
    _bug("once_retried", "What must not run again is run again if its worker dies.", Liveness, "again",
         "elif request.at_most_once:", "elif request.at_most_once and request.stream:"),
    _bug("death_not_counted", "Deaths of workers are not counted against a request.", Liveness, "again",
         "request.deaths += died", "pass"),
    _bug("one_death_more", "Poison takes one worker more than it may.", Liveness, "again",
         "request.deaths >= state.config.deaths_max", "request.deaths > state.config.deaths_max"),
    _bug("suspect_not_alone", "A suspect is computed together with others.", Dispatcher, "send",
         "request.flags | Flag.ALONE if request.deaths else request.flags", "request.flags"),
    _bug("parked_forgotten", "Of what waits for its worker to come back, the first waits for ever.", Jobs,
         "expire_parked", "list(self._state.parked.values())", "list(self._state.parked.values())[1:]"),
    _bug("rejoin_forgotten", "Requests are refused at once when the last worker has gone.", Dispatcher, "may_wait",
         "state.now < queue.gone_at + state.config.rejoin_s", "False"),
    _bug("ready_not_awaited", "Who waits for a worker is told that there is none.", Dispatcher, "may_wait",
         "queue.gone_at is None or request.flags & Flag.WAIT_FOR_READY", "queue.gone_at is None"),
    _bug("held_up_ignored", "Workers are judged for the time in which the broker did not run.", Broker, "_held_up",
         "worker.heard = min(worker.heard + event.seconds, state.now)", "pass"),
    _bug("loading_judged", "A worker that loads is judged for the time in which the broker did not run.", Broker,
         "_held_up", "worker.loading_since = min(worker.loading_since + event.seconds, state.now)", "pass"),
    _bug("reload_cut_short", "The time to load counts from when the worker was first known.", Workers, "_describe",
         "worker.loading_since = state.now", "pass"),
    _bug("reset_ignored", "A worker whom the broker does not know says nothing of itself.", WorkerSession, "_reset",
         "self.connected(now)", "pass"),
    _bug("resend_forgotten", "A client that reconnects does not send again what is outstanding.", ClientSession,
         "_greet", "self._transmit(now, pending)", "pass"),
)  # fmt: skip

TIMES = (
    _bug("timer_left", "The deadline of a request that was answered is not taken off.", Answers, "_forget",
         "state.timers.remove(request)", "pass"),
    _bug("second_granted", "A worker is told at least a second, however little is left.", Dispatcher, "send",
         "remaining_ms = max(0, ", "remaining_ms = max(1000, "),
    _bug("woken_early", "The core asks to be woken a tick before anything is due.", Timers, "next",
         "return tick * TICK_S", "return (tick - 1) * TICK_S"),
    _bug("expired_twice", "A call that has expired is answered as well.", ClientSession, "_expire",
         "self._outstanding.pop(pending.id, None)", "self._outstanding.get(pending.id)"),
    _bug("cancelled_answered", "A call that was cancelled is answered.", ClientSession, "cancel",
         "self._outstanding.pop(pending.id, None)", "self._outstanding.get(pending.id)"),
    _bug("cancel_not_obeyed", "A worker computes on what it was told to cancel.", WorkerSession, "_cancel",
         "self.actions.append(Cancel(job))", "pass"),
)  # fmt: skip

STREAMS = (
    _bug("chunk_twice", "The last chunk that the reader has is passed on a second time.", Jobs, "chunk",
         "message.seq < request.next_seq", "message.seq + 1 < request.next_seq"),
    _bug("gap_accepted", "A client takes a chunk although the one before it is missing.", ClientSession, "_chunk",
         "elif message.seq == pending.next_seq", "elif message.seq >= pending.next_seq"),
    _bug("resumed_one_late", "A stream that goes on counts from one chunk later.", Job, "__init__",
         "self.seq = message.seen", "self.seq = message.seen + 1"),
    _bug("resumed_elsewhere", "The broker takes it that the reader has one chunk more.", Clients, "_credit",
         "request.credit = min(", "request.next_seq += 1; request.credit = min("),
    _bug("credit_not_passed_on", "The worker does not hear of the credit that the reader grants.", Clients, "_credit",
         "self._state.to_worker(request.worker, Credit(request.job_id, message.chunks))", "pass"),
    _bug("credit_not_granted", "A reader grants nothing for the chunks that it takes.", Pending, "take",
         "return owed", "return 0"),
)  # fmt: skip

BUGS: tuple[Bug, ...] = (*ANSWERS, *CAPS, *TURNS, *PLACES, *LIVES, *TIMES, *STREAMS)
