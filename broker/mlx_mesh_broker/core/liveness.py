"""Whether workers live: what is done about their silence, their stalls and their deaths, and about draining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_broker.core.actions import Unwatch
from mlx_mesh_broker.core.answers import failure
from mlx_mesh_broker.core.lifecycle import Turn, WorkerState, next_state
from mlx_mesh_wire.messages import Cancel, Dump, Loading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_mesh_broker.core.answers import Answers
    from mlx_mesh_broker.core.dispatch import Dispatcher
    from mlx_mesh_broker.core.entities import Request, Worker
    from mlx_mesh_broker.core.state import State

OPERATOR, GUARD, ITSELF = "operator", "guard", "worker"
"""Who may have drained a worker."""


class Liveness:
    """Judges workers, changes their states, and has the work of those that are lost run elsewhere."""

    def __init__(self, state: State, answers: Answers, dispatcher: Dispatcher) -> None:
        self._state = state
        self._answers = answers
        self._dispatcher = dispatcher

    def unreachable(self, route: bytes) -> None:
        """Give the worker no more: its connection is gone, its process perhaps too."""
        worker = self._state.workers.get(route)
        if worker is not None:
            self.turn(worker, Turn.MISSED)

    def exited(self, worker: Worker, running: frozenset[int] | None) -> None:
        """Run the work of a dead process elsewhere."""
        self.lose(worker, Turn.DIED, worker.jobs.keys() if running is None else running, "its process ended")

    def drain(self, worker: Worker, by: str) -> None:
        """Have a worker finish what it holds and take nothing new.

        ``by`` says who wants that: the first one counts, but for an operator, who does not give way to a guard.
        """
        if next_state(worker.state, Turn.QUIET) is WorkerState.DRAINING and (not worker.drained_by or by == OPERATOR):
            worker.drained_by = by
        self.turn(worker, Turn.QUIET)

    def resume(self, worker: Worker) -> None:
        """Have a draining worker serve again, once it can.

        One that leaves goes on draining whatever it is told. It would return each job at once, and get it again.
        """
        if worker.quiet:
            worker.drained_by = ITSELF
        else:
            self.turn(worker, Turn.LOAD if type(worker.info) is Loading else Turn.RESUME)

    def said_quiet(self, worker: Worker, on: bool) -> None:
        """Take a worker's own word for whether it drains."""
        if on:
            self.drain(worker, ITSELF)
        worker.quiet = on
        if not on:
            self.resume(worker)

    def turn(self, worker: Worker, turn: Turn) -> None:
        """Change the worker's state by the table, and what follows from that."""
        before = worker.state
        worker.state = next_state(before, turn)
        if worker.state is before:
            return
        if worker.state is not WorkerState.DRAINING:
            worker.drained_by = ""
            worker.quiet = False
        level = "warning" if worker.state in (WorkerState.SUSPECT, WorkerState.STALLED, WorkerState.LOST) else "info"
        by = {"by": worker.drained_by} if worker.drained_by else {}
        name = "worker_" + worker.state.value
        self._state.log(level, name, was=before.value, because=turn.value, **by, **worker.summary())
        self._dispatcher.changed(worker)
        for queue in worker.queues:
            self._dispatcher.check_gone(queue)
            self._state.settle(queue)
        if worker.state is WorkerState.READY:
            self._dispatcher.feed(worker)

    def watch(self, worker: Worker) -> None:
        """Judge the worker a beat from now."""
        worker.alarm = self._state.alarm(self._state.config.beat_s, lambda: self._check(worker))

    def _check(self, worker: Worker) -> None:
        """Judge a worker by its silence and its progress, once a beat."""
        state, config = self._state, self._state.config
        worker.alarm = None
        silence = state.now - worker.heard
        if silence >= (config.lost_remote_s if worker.remote else config.lost_s):
            self.lose(worker, Turn.SILENT, self._blamed(worker), f"silent for {silence:.1f} s")
            return
        if worker.state is WorkerState.LOADING:
            cap = min(worker.info.load_max_ms / 1000 or config.load_max_s, config.load_max_s)
            if state.now - worker.loading_since >= cap:
                self.lose(worker, Turn.SILENT, (), f"loading for over {cap:g} s")
                return
        elif silence >= config.suspect_s:
            self.turn(worker, Turn.MISSED)
        if worker.jobs and state.now - worker.progressed >= config.stall_s:
            if all(request.stream and request.starved_at for request in worker.jobs.values()):
                worker.progressed = state.now  # It waits for readers, which are judged by themselves.
            else:
                self._stalled(worker)
        self.watch(worker)

    def _stalled(self, worker: Worker) -> None:
        self._state.metrics.counts["workers_stalled"] += 1
        still_s = self._state.now - worker.progressed
        # Before the CANCELs, so that the stacks show what it was at.
        self._state.to_worker(worker, Dump(f"no progress for {still_s:.1f} s with {len(worker.jobs)} jobs"))
        self.turn(worker, Turn.STUCK)
        blamed = self._blamed(worker)
        jobs = list(worker.jobs.items())
        for job_id, request in jobs:
            self._state.to_worker(worker, Cancel(job_id))
            self._dispatcher.release(request)
        for job_id, request in jobs:
            self.again(request, died=job_id in blamed)

    def _blamed(self, worker: Worker) -> frozenset[int]:
        """Return the jobs that were being computed as of the last beat; all that it held, if it named none."""
        running = frozenset(worker.beat.running) & worker.jobs.keys() if worker.beat else frozenset()
        return running or frozenset(worker.jobs)

    def lose(self, worker: Worker, turn: Turn, running: Iterable[int], reason: str) -> None:
        """Forget a worker and have its work run elsewhere; what it was ``running`` is suspected of its death."""
        state = self._state
        blamed = frozenset(running)
        del state.instances[worker.info.instance]
        del state.workers[worker.route]
        for queue in worker.queues:
            queue.pool.leave(worker)
        state.offer(worker.kind, None)
        self.turn(worker, turn)
        for queue in worker.queues:
            queue.pool.leave(worker)  # Once more: that it turned was noted there.
        if worker.alarm is not None:
            state.timers.remove(worker.alarm)
        if turn is not Turn.BYE:
            state.metrics.counts["workers_lost"] += 1
        state.out.append(Unwatch(worker.info.instance))
        state.log("info", "worker_gone", reason=reason, held=len(worker.jobs), blamed=len(blamed), **worker.summary())
        jobs, worker.jobs = worker.jobs, {}
        for job_id, request in jobs.items():
            request.worker = None
            self.again(request, died=job_id in blamed)
        for place in [place for place, holding in state.holdings.items() if holding.worker is worker]:
            del state.holdings[place]

    def again(self, request: Request, *, died: bool = False) -> None:
        """Run a request once more, unless it must not be: it was to run once, or it has cost too many workers."""
        state = self._state
        request.deaths += died
        if request.deaths >= state.config.deaths_max:
            state.metrics.counts["poisoned"] += 1
            state.quarantine.add(request, state.now)
            state.log("error", "request_quarantined", op=request.op, client=request.session.name, request=request.id)
            text = f"{request.deaths} workers died while they computed this request; it is quarantined"
            self._answers.failed(request, failure("POISON_REQUEST", text))
        elif request.at_most_once:
            text = "the worker was lost after it may have started; at_most_once forbids to run the request again"
            self._answers.failed(request, failure("WORKER_LOST", text))
        else:
            self._dispatcher.take_back(request)
