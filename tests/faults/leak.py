"""Workers that leak MLX memory under a ceiling, with callers throughout: recycled in time, and nobody notices.

``python -m tests.faults.leak --minutes 10 [--cgroup]``

With ``--cgroup`` the bound is that of a real control group, in which supervisord and all that it runs live.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.figures import percentile
from mlx_mesh import AsyncMesh, Mesh, MeshError
from tests.faults.callers import Call, Callers, changed_conf
from tests.faults.soak import supervisor
from tests.guard.control_group import limited_group
from tests.live import BIN, LiveMesh, live_mesh

MIB = 1024 * 1024
SAMPLE_S = 0.05

ENGINE = """
import time
import mlx.core as mx
from mlx_mesh_worker.engine import BatchEngine

class Leaky(BatchEngine):
    ops = ("leak",)
    slots = 4

    def load(self):
        self.kept = []

    def run(self, batch):
        grown = [mx.ones((int(size),), dtype=mx.uint8) for size in batch]
        mx.eval(grown)
        self.kept += grown
        time.sleep(0.005)
        return [int(size) for size in batch]

    def memory(self):
        return {"mlx_active": mx.get_active_memory(), "mlx_cache": mx.get_cache_memory()}
"""


class Outcome(NamedTuple):
    calls: int
    failed: Counter[str]
    recycles: dict[str, int]
    highest_share: float
    p99_usual_ms: float
    p99_recycling_ms: float


class Watcher(threading.Thread):
    """Samples what the workers take, and when a recycle is under way."""

    def __init__(self, mesh: LiveMesh) -> None:
        super().__init__(daemon=True)
        self._mesh = mesh
        self._over = threading.Event()
        self.highest = 0
        self.spans: list[tuple[float, float]] = []
        self.report: dict[str, Any] = {}

    def run(self) -> None:
        with Mesh(self._mesh.endpoint) as client:
            while not self._over.wait(SAMPLE_S):
                with contextlib.suppress(MeshError):
                    self._sample(client.status())

    def _sample(self, status: dict[str, Any]) -> None:
        taken = 0
        for worker in status["workers"]:
            with contextlib.suppress(psutil.Error):
                taken += psutil.Process(worker["pid"]).memory_info().rss
        self.highest = max(self.highest, taken)
        now = time.monotonic()
        self.report = status["guard"] or {}
        if self.report.get("recycles"):
            if self.spans and now - self.spans[-1][1] < 1.0:
                self.spans[-1] = self.spans[-1][0], now
            else:
                self.spans.append((now - SAMPLE_S, now))

    def stop(self) -> None:
        self._over.set()
        self.join(10)


def going_on(watcher: Watcher, until: float, recycles: int) -> bool:
    """Whether there is time left, and not all recycles have been seen to their end."""
    if time.monotonic() >= until:
        return False
    report = watcher.report
    done = sum(count for name, count in report.get("counters", {}).items() if name.startswith("recycles "))
    return not recycles or done < recycles or bool(report["recycles"])


def p99_ms(calls: list[Call]) -> float:
    return 1e3 * percentile([call.seconds for call in calls], 0.99) if calls else 0.0


def leak(
    mesh: LiveMesh,
    seconds: float,
    *,
    ceiling: int,
    size: int,
    callers: int = 8,
    group: Path | None = None,
    recycles: int = 0,
) -> Outcome:
    """Run workers that keep ``size`` bytes of every call under a ceiling, or in a group, with callers throughout.

    For so many seconds, or until there were so many recycles.
    """
    mesh.engine(ENGINE)
    mesh.env["MLX_MESH_GUARD_COOLDOWN_S"] = "5"
    conf = changed_conf(mesh, ("--engine embed", "--engine mine:Leaky"))
    if group is None:
        mesh.env["MLX_MESH_GUARD_CEILING_BYTES"] = str(ceiling)
        supervisor(mesh, "up", "--detach", "--conf", str(conf))
    else:
        start = f"echo $$ > {group}/cgroup.procs && exec {BIN}/mlx-mesh up --detach --conf {conf}"
        subprocess.run(["sh", "-c", start], env=mesh.env, check=True, stdout=subprocess.DEVNULL, timeout=120)

    async def ask(client: AsyncMesh) -> tuple[int, float]:
        assert await client.call("leak", size, timeout=10.0) == size
        return 0, 0.0

    watcher = Watcher(mesh)
    try:
        watcher.start()
        until = time.monotonic() + seconds
        with Callers(mesh, callers, op="leak", ask=ask) as running:
            while going_on(watcher, until, recycles):
                time.sleep(SAMPLE_S)
        watcher.stop()
    finally:
        supervisor(mesh, "down")
    usual, recycling = [], []
    for call in running.calls:
        during = any(a <= call.began + call.seconds and call.began <= b for a, b in watcher.spans)
        (recycling if during else usual).append(call)
    counters = watcher.report.get("counters", {})
    return Outcome(
        len(running.calls),
        running.failed,
        {name: count for name, count in counters.items() if name.startswith(("recycle", "kills", "replaced"))},
        watcher.highest / ceiling,
        p99_ms(usual),
        p99_ms(recycling),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--ceiling", type=int, default=700, help="MiB that both workers may take together")
    parser.add_argument("--size", type=int, default=64 * 1024, help="bytes that each call leaks")
    parser.add_argument("--cgroup", action="store_true", help="have a control group bound it; needs root")
    args = parser.parse_args()
    ceiling = args.ceiling * MIB
    with live_mesh() as mesh, limited_group(ceiling) if args.cgroup else contextlib.nullcontext() as group:
        if args.cgroup and group is None:
            parser.error("no control group can be made here")
        outcome = leak(mesh, 60 * args.minutes, ceiling=ceiling, size=args.size, group=group)
        print(mesh.log("guard")[-4000:])
    print(outcome)
    good = not outcome.failed and outcome.highest_share < 1 and sum(outcome.recycles.values()) > 0
    return 0 if good and outcome.p99_recycling_ms <= 3 * outcome.p99_usual_ms else 1


if __name__ == "__main__":
    sys.exit(main())
