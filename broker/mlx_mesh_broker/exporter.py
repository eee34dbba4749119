"""The core's counters as Prometheus metrics. Nothing here is on the path of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from mlx_mesh_broker.core.lifecycle import TRANSITIONS, WorkerState
from mlx_mesh_broker.core.metrics import BUCKETS_S
from mlx_mesh_broker.snapshot import HISTOGRAMS
from mlx_mesh_wire.guard_report import PAUSES, RUNGS
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from mlx_mesh_broker.snapshot import Snapshot

_Report = dict[str, Any] | None
"""What ``status`` shows of the guard. Without one, its figures are left out: old ones would look like those of now."""

STATES = [state.value for state in WorkerState if TRANSITIONS[state]]
"""States of a worker that is still there."""

ALERTED = ("held_up", "poisoned", "workers_lost", "workers_stalled")
"""Events that are shown before they happen: an alert on how much one has grown would not see the first otherwise."""


def collect(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the metric families of a snapshot."""
    yield from _requests(snapshot)
    yield from _workers(snapshot)
    yield from _queues(snapshot)
    yield from _memory(snapshot.status["guard"])
    yield from _guard(snapshot.status["guard"])
    yield from _processes(snapshot.status["guard"])
    yield _paused(snapshot.status["paused"])
    events = CounterMetricFamily("mlx_mesh_broker_events", "Things that happened in the broker.", labels=["event"])
    for name, value in sorted({**dict.fromkeys(ALERTED, 0), **snapshot.counts, **snapshot.shell}.items()):
        events.add_metric([name], value)
    yield events
    auth = CounterMetricFamily("mlx_mesh_auth", "Peers that asked to be let in.", labels=["role", "outcome"])
    for key, value in sorted(snapshot.auth.items()):
        auth.add_metric(key, value)
    yield auth
    yield _quotas(snapshot)
    yield GaugeMetricFamily("mlx_mesh_clients", "Clients connected.", snapshot.status["clients"])
    text = "Longest time, within the last minute or two, that the broker's loop did not look at its sockets."
    yield GaugeMetricFamily("mlx_mesh_loop_gap_seconds", text, snapshot.loop_gap_s)
    yield GaugeMetricFamily("mlx_mesh_uptime_seconds", "Age of the broker.", snapshot.status["uptime_s"])


def _quotas(snapshot: Snapshot) -> Metric:
    refused = CounterMetricFamily(
        "mlx_mesh_quota_refused", "What holders of keys were refused, by quota.", labels=["key", "reason"]
    )
    for labels, value in sorted(snapshot.quota_refused.items()):
        refused.add_metric(labels, value)
    return refused


def _requests(snapshot: Snapshot) -> Iterator[Metric]:
    yield CounterMetricFamily("mlx_mesh_requests_accepted", "Requests taken in.", value=snapshot.accepted)
    waiting = snapshot.accepted - snapshot.answered
    yield GaugeMetricFamily("mlx_mesh_requests_outstanding", "Requests without an answer yet.", waiting)
    held = snapshot.status["counters"]["held_bytes"]
    yield GaugeMetricFamily("mlx_mesh_requests_outstanding_bytes", "Bytes that these take.", held)
    labels = ["op", "model"]
    done = CounterMetricFamily(
        "mlx_mesh_requests", "Requests answered, by outcome (OK or an error code).", labels=[*labels, "lane", "outcome"]
    )
    chunks = CounterMetricFamily("mlx_mesh_chunks", "Stream chunks passed on.", labels=labels)
    for key, (outcomes, count, _) in snapshot.ops.items():
        chunks.add_metric(key, count)
        for (lane, outcome), value in sorted(outcomes.items()):
            done.add_metric([*key, LANE_NAMES[lane], outcome], value)
    yield done
    yield chunks
    for name, (attribute, text) in HISTOGRAMS.items():
        family = HistogramMetricFamily("mlx_mesh_" + name, text, labels=labels)
        for key, (_, _, histograms) in snapshot.ops.items():
            family.add_metric(key, *_cumulative(*histograms[attribute]))
        yield family


def _cumulative(counts: list[int], total: float) -> tuple[list[tuple[str, float]], float]:
    buckets: list[tuple[str, float]] = []
    seen = 0
    for bound, count in zip((*BUCKETS_S, float("inf")), counts, strict=True):
        seen += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), seen))
    return buckets, total


def _workers(snapshot: Snapshot) -> Iterator[Metric]:
    workers = snapshot.status["workers"]
    by_state = GaugeMetricFamily("mlx_mesh_workers", "Workers by state.", labels=["state"])
    for state in STATES:
        by_state.add_metric([state], sum(worker["state"] == state for worker in workers))
    yield by_state
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
        "slots": GaugeMetricFamily("mlx_mesh_worker_slots", "Jobs that a worker computes at once.", labels=["worker"]),
        "in_flight": GaugeMetricFamily("mlx_mesh_worker_in_flight", "Jobs that a worker holds.", labels=["worker"]),
        "served": CounterMetricFamily("mlx_mesh_worker_served", "Jobs that a worker finished.", labels=["worker"]),
        "heard_s": GaugeMetricFamily("mlx_mesh_worker_silence_seconds", "Since its last message.", labels=["worker"]),
    }
    memory = GaugeMetricFamily("mlx_mesh_worker_memory_bytes", "Memory by kind.", labels=["worker", "kind"])
    engine = CounterMetricFamily(
        "mlx_mesh_worker_engine", "What a worker's engine has counted.", labels=["worker", "counter"]
    )
    for worker in workers:
        for name, family in families.items():
            family.add_metric([worker["name"]], worker[name])
        for kind, value in worker["memory"].items():
            memory.add_metric([worker["name"], kind], value)
        for counter, value in worker["counters"].items():
            engine.add_metric([worker["name"], counter], value)
    yield from families.values()
    yield memory
    yield engine


def _queues(snapshot: Snapshot) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("mlx_mesh_requests_waiting", "Requests queued.", labels=["op", "model", "lane"])
    size = GaugeMetricFamily("mlx_mesh_queue_bytes", "Bytes of queued bodies.", labels=["op", "model"])
    for queue in snapshot.status["queues"]:
        for lane, count in queue["waiting"].items():
            waiting.add_metric([queue["op"], queue["model"], lane], count)
        size.add_metric([queue["op"], queue["model"]], queue["bytes"])
    yield waiting
    yield size


def _memory(report: _Report) -> Iterator[Metric]:
    pressure = report["pressure"] if report else None
    yield GaugeMetricFamily("mlx_mesh_memory_pressure_ratio", "Memory taken, of the tightest bound.", pressure)
    limits = report["limits"] if report else []
    for name, text in (("used", "Memory taken, by bound."), ("limit", "Bounds of memory.")):
        yield _labelled(f"memory_{name}_bytes", text, "source", ((each["source"], each[name]) for each in limits))
    signals = report["signals"].items() if report else ()
    yield _labelled("os_memory_signal", "What the operating system says of its memory.", "signal", signals)


def _guard(report: _Report) -> Iterator[Metric]:
    yield GaugeMetricFamily("mlx_mesh_guard_up", "Whether a guard reports.", float(report is not None))
    rung = RUNGS.index(report["rung"]) if report else None
    yield GaugeMetricFamily("mlx_mesh_guard_rung", f"What the guard does: {', '.join(RUNGS)} are 0 to 4.", rung)
    recycles = len(report["recycles"]) if report else None
    yield GaugeMetricFamily("mlx_mesh_recycles_in_progress", "Workers that are being replaced.", recycles)
    for name, field, label, text in (
        ("guard_actions", "counters", "action", "What the guard has done."),
        ("guard_source_errors", "errors", "source", "How often a source of the guard could not be read."),
    ):
        counter = CounterMetricFamily("mlx_mesh_" + name, text, labels=[label])
        for key, value in (report[field] if report else {}).items():
            counter.add_metric([key], value)
        yield counter


def _processes(report: _Report) -> Iterator[Metric]:
    workers = report["workers"] if report else []
    for name, field, text in (
        ("worker_footprint_bytes", "bytes", "Memory that a worker's process takes."),
        ("worker_growth_bytes_per_second", "slope", "What that grows by."),
        ("worker_leaking", "leaking", "Whether that is taken for a leak."),
    ):
        yield _labelled(name, text, "worker", ((worker["name"], worker[field]) for worker in workers))
    troubled = report["troubled"] if report else []
    text = "Processes that supervisord no longer starts."
    yield _labelled("processes_given_up", text, "process", ((each["name"], 1) for each in troubled))


def _paused(paused: str) -> Metric:
    waiting = LANE_NAMES[LANE_NAMES.index(paused) :] if paused else ()
    lanes = ((lane, lane in waiting) for lane in PAUSES if lane)
    return _labelled("admission_paused", "Whether new work of a lane waits on this machine.", "lane", lanes)


def _labelled(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a gauge with one label; of equal ones the last counts, since two would make the whole page invalid."""
    family = GaugeMetricFamily("mlx_mesh_" + name, text, labels=[label])
    for key, value in dict(values).items():
        family.add_metric([key], float(value))
    return family
