"""The status map: what ``mlx-mesh status`` and ``Mesh.status()`` show."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.sessions import welcome
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    from mlx_mesh_broker.core.entities import Worker
    from mlx_mesh_broker.core.queues import Queue
    from mlx_mesh_broker.core.quotas import Account
    from mlx_mesh_broker.core.state import State


def status(state: State, asker: Account | None = None) -> dict[str, Any]:
    """Return epoch, uptime, workers, queues, limits and counters as plain values; times in seconds.

    An ``asker`` with a key sees of the holders of keys only itself.
    """
    return {
        "epoch": state.epoch,
        "uptime_s": round(state.now - state.started, 3),
        "workers": [_worker(state, w) for w in sorted(state.instances.values(), key=lambda w: w.info.name)],
        "queues": [_queue(state, queue) for queue in state.queues.values() if queue.pool.workers or queue.count],
        "guard": _guard(state),
        "paused": state.guard.paused,
        "clients": len(state.sessions),
        "holders": _holders(state, asker),
        "limits": {
            **welcome(state, asker).limits,
            "queue_max_requests": state.config.queue_max_requests,
            "queue_max_bytes": state.config.queue_max_bytes,
            "client_max_request_bytes": state.config.client_max_request_bytes,
            "requests_max_bytes": state.config.requests_max_bytes,
        },
        "counters": {
            "accepted": state.metrics.accepted,
            "answered": state.metrics.answered,
            "outstanding": state.metrics.accepted - state.metrics.answered,
            "held_bytes": state.held_bytes(),
            "asked": len(state.asked),
            "cache_entries": len(state.cache),
            "cache_bytes": state.cache.bytes,
            "quarantined_bodies": len(state.quarantine),
            **state.metrics.counts,
        },
    }


def _holders(state: State, asker: Account | None) -> list[dict[str, Any]]:
    serving = Counter(worker.holder.name for worker in state.instances.values() if worker.holder is not None)
    return [
        {
            "name": name,
            "role": account.holder.role.value,
            "sessions": account.sessions,
            "workers": serving[name],
            "outstanding": account.outstanding,
            "refused": account.refused,
        }
        for name, account in sorted(state.accounts.items())
        if asker is None or account is asker
    ]


def _guard(state: State) -> dict[str, Any] | None:
    report = state.guard.report
    return None if report is None else {**report.as_map(), "age_s": round(state.now - state.guard.told_at, 3)}


def _worker(state: State, worker: Worker) -> dict[str, Any]:
    info, beat = worker.info, worker.beat
    return {
        "name": info.name,
        "pid": info.pid,
        "host": info.host,
        "state": worker.state.value,
        "drained_by": worker.drained_by,
        "ops": list(info.ops),
        "models": list(info.models),
        "warm": sorted(worker.warm),
        "slots": worker.slots,
        "in_flight": len(worker.jobs),
        "served": worker.served,
        "memory": dict(beat.memory) if beat else {},
        "counters": dict(beat.counters) if beat else {},
        "versions": dict(info.versions),
        "uptime_s": round(state.now - worker.joined, 3),
        "heard_s": round(state.now - worker.heard, 3),
        "progress": worker.progress,
        "remote": worker.remote,
    }


def _queue(state: State, queue: Queue) -> dict[str, Any]:
    op, model = queue.key
    return {
        "op": op,
        "model": model,
        "waiting": {
            **{name: lane.count for name, lane in zip(LANE_NAMES, queue.lanes, strict=True)},
            "again": len(queue.again),
        },
        "bytes": queue.bytes,
        "workers": len(queue.pool.workers),
        "gone_s": None if queue.gone_at is None else round(state.now - queue.gone_at, 3),
    }
