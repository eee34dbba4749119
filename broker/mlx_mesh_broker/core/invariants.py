"""Recomputes everything that the core keeps twice, and checks what must always hold. For tests and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core import state as tables
from mlx_mesh_broker.core.catalogue import ANY
from mlx_mesh_broker.core.entities import REQUEST_BYTES, SMALL_BYTES
from mlx_mesh_broker.core.guard import GUARD_LEASE_S, ROSTER_MAX
from mlx_mesh_broker.core.keyed import KEY_SESSIONS_MAX
from mlx_mesh_broker.core.lifecycle import COMING, WorkerState
from mlx_mesh_broker.core.streams import lacks_state
from mlx_mesh_wire.messages import Lane

if TYPE_CHECKING:
    from mlx_mesh_broker.core.entities import Request, Worker
    from mlx_mesh_broker.core.queues import Queue
    from mlx_mesh_broker.core.state import State


class BrokenInvariantError(AssertionError):
    """The core contradicts itself; the message says where."""


def check(state: State) -> None:
    """Raise BrokenInvariantError at the first contradiction."""
    outstanding = [r for session in state.sessions.values() for r in session.outstanding.values()]
    queued = {request for queue in state.queues.values() for request in queue}
    for request in outstanding:
        _check_request(state, request, queued)
    for worker in state.instances.values():
        _check_worker(state, worker)
    for queue in state.queues.values():
        _check_queue(state, queue)
    _must(state.metrics.accepted == state.metrics.answered + len(outstanding), "accepted = answered + outstanding")
    _must(state.large_bytes == sum(request.charged for request in outstanding), "bytes of large requests are counted")
    held = len(outstanding) * REQUEST_BYTES + state.large_bytes
    _must(state.held_bytes() == held <= state.config.requests_max_bytes, "bytes of requests are capped")
    for session in state.sessions.values():
        own = sum(request.charged for request in session.outstanding.values())
        _must(session.large_bytes == own <= state.config.client_max_request_bytes, "bytes of a client likewise")
        connected = state.clients.get(session.route) is session
        _must(connected == (session.away is None), f"session {session.name} is connected or away")
        _must(len(session.outstanding) <= state.config.client_max_outstanding, "outstanding of a client is capped")
        tended = session.alarm is not None and session.alarm in state.timers
        _must(not session.outstanding or tended, "a client with work is tended")
    _must(set(state.asked) <= set(outstanding), "clients are asked for what has no answer yet")
    _must(state.cache.check(), "the cache counts its entries")
    _check_accounts(state)
    _check_offers(state)
    _check_guard(state)
    for key, leader in state.flights.items():
        _must(leader.key == key and leader.leader is None, "a flight is led by a request with its key")
        _must(leader.waiting or leader.worker is not None, "a leader is under way")
        waits = leader.waiting and not leader.attempts
        behind = waits and any(follower.lane < leader.lane for follower in leader.followers or ())
        _must(not behind, "nobody waits behind a leader of a lower lane")
    held = sum(len(worker.jobs) for worker in state.instances.values())
    _must(held == sum(r.worker is not None for r in outstanding), "jobs and requests agree")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenInvariantError(what)


def _check_request(state: State, request: Request, queued: set[Request]) -> None:
    name = f"request {request.session.name}/{request.id}"
    parked = state.parked.get((request.session.key, request.id)) is request
    asked = request in state.asked
    places = [request.waiting, request.worker is not None, request.leader is not None, parked, asked]
    _must(sum(places) == 1, f"{name} is in one place, not {places}")
    _must(request in state.timers, f"{name} has a deadline")
    if request.worker is not None:
        _must(request.worker.jobs.get(request.job_id) is request, f"{name} is held by its worker")
        _must(state.instances.get(request.worker.info.instance) is request.worker, f"{name} has a living worker")
    if request.leader is not None:
        _must(request in (request.leader.followers or ()), f"{name} follows its leader")
    if request.waiting:
        _must(request.queue is not None and request in queued, f"{name} waits in its queue")
    _must(request.deaths < state.config.deaths_max, f"{name} is not poison")
    state_bytes = len(request.kept.data) if request.kept is not None else 0
    large = request.size if request.size > SMALL_BYTES else 0
    _must(request.size == sum(map(len, request.frames)), f"{name} knows its size")
    _must(request.charged == large + state_bytes, f"{name} counts its large body and its state")
    if request.stream:
        _must(request.base_seq <= request.next_seq, f"{name} has sent what went over this connection")
        _must(not (request.waiting and lacks_state(request)), f"{name} waits with what it is to go on from")
        _must(not asked or (request.kept is None and not request.starved_at), f"{name} waits for its client only")


def _check_worker(state: State, worker: Worker) -> None:
    name = f"worker {worker.info.name}"
    _must(worker.state in COMING or worker.state is WorkerState.DRAINING, f"{name} has not ended")
    _must(state.workers.get(worker.route) is worker, f"{name} has a route")
    _must(worker.alarm is not None and worker.alarm in state.timers, f"{name} is watched")
    _must(worker.bulk == sum(r.lane == Lane.BULK for r in worker.jobs.values()), f"{name} counts its bulk jobs")
    _must(worker.lowest == (Lane.BULK if worker.remote else state.guard.lowest), f"{name} pauses with its machine")
    draining = worker.state is WorkerState.DRAINING
    _must(bool(worker.drained_by) == draining >= worker.quiet, f"{name} knows who drained it")
    for queue in worker.queues:
        _must(worker in queue.pool.workers, f"{name} is in the pools of its queues")


def _check_offers(state: State) -> None:
    workers = state.instances.values()
    offers = {(op, model) for w in workers for op in w.ops for model in w.models}
    catalogue = state.catalogue
    _must({(op, m) for op, models in catalogue.models.items() for m in models} == offers, "the models on offer")
    _must(set(catalogue.models) == {op for w in workers for op in w.ops}, "the ops on offer")
    _must(catalogue.open == {op for w in workers if not w.models for op in w.ops}, "the ops for any model")


def _check_accounts(state: State) -> None:
    for name, account in state.accounts.items():
        own = [session for session in state.sessions.values() if session.account is account]
        _must(account.holder.name == name, f"the account of {name} is its own")
        _must(account.sessions == len(own) <= KEY_SESSIONS_MAX, f"the sessions of {name} are counted and capped")
        outstanding = sum(len(session.outstanding) for session in own)
        _must(account.outstanding == outstanding, f"the requests of {name} are counted")
    for session in state.sessions.values():
        known = state.accounts.get(session.holder.name) if session.holder is not None else None
        _must(session.account is known, f"session {session.name} has the account of its key")
    workers = state.instances.values()
    _must(all(w.holder is None or w.holder.name in state.accounts for w in workers), "keys of workers have accounts")


def _check_guard(state: State) -> None:
    guard = state.guard
    _must((guard.report is None) == (guard.lease is None), "a report of the guard holds for a time")
    _must(guard.lease is None or guard.lease in state.timers, "it ends by itself")
    _must(guard.lease is None or guard.lease.due == guard.told_at + GUARD_LEASE_S, "so long after it came")
    _must(guard.told_at <= state.now, "it came before now")
    _must(guard.report is not None or guard.lowest is Lane.BULK, "nothing is paused without a guard")
    _must(len(state.roster) <= ROSTER_MAX, "workers that have been here are capped")


def _rank(queue: Queue, worker: Worker) -> tuple[bool, bool, float, int]:
    model = queue.pool.model
    cold = bool(model) and bool(worker.models) and model not in worker.warm
    return worker.lowest is not Lane.BULK, cold, len(worker.jobs) / worker.slots, worker.used


def _check_queue(state: State, queue: Queue) -> None:
    waiting = list(queue)
    name = f"queue {queue.key}"
    _must(queue.count == len(waiting), f"{name} counts its requests")
    _must(queue.bytes == sum(r.size for r in waiting), f"{name} counts its bytes")
    _must(all(r.waiting and r.queue is queue for r in waiting), f"{name} holds those that wait in it")
    _must([lane.count for lane in queue.lanes] == [len(list(lane)) for lane in queue.lanes], f"{name} counts by lane")
    fresh = queue.count - len(queue.again)
    _must(fresh <= state.config.queue_max_requests, f"{name} keeps its cap")
    op, model = queue.key
    room = len(state.queues) < tables.QUEUES_MAX
    misplaced = [
        r for r in waiting if r.model != model and (model != ANY or (room and state.catalogue.lists(op, r.model)))
    ]
    _must(not misplaced, f"{name} holds what no other queue is for")
    origins = [w.origin(op, model) for w in queue.pool.workers if w.state is not WorkerState.LOADING]
    shared = bool(origins) and None not in origins and all(each == origins[0] for each in origins)
    _must(bool(queue.source) == shared, f"{name} shares results if its workers compute the same")
    workers = {worker for worker in state.instances.values() if worker.serves(*queue.key)}
    _must(queue.pool.workers == workers, f"{name} knows who serves it")
    _must((queue.gone_at is None) == any(w.state in COMING for w in workers), f"{name} knows if its workers are gone")
    free = [w for w in workers if w.state is WorkerState.READY and len(w.jobs) < w.capacity]
    best = queue.pool.best()
    _must((best is None) == (not free), f"{name} finds a free worker")
    if best is not None:
        ranks = [_rank(queue, worker) for worker in free]
        _must(_rank(queue, best) == min(ranks), f"{name} chooses by memory, warmth, load and last use")
        may_go = [r for r in queue if r.attempts or any(worker.room(r.lane) > 0 for worker in free)]
        _must(not may_go, f"{name} leaves no fit worker idle beside a waiting request")
