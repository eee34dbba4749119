"""What watching costs: the guard beside superlance's memmon, in one supervisord, over the same workers."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.processes import BIN, ROOT, Group, until
from benchmarks.progress import progress
from benchmarks.results import Result, Target

WORKERS = (2, 16)
SECONDS = 60.0
QUICK_SECONDS = 6.0
SHARE_MOST = 1.0
MEMORY_MOST = 40.0
MIB = 2**20

GUARD, MEMMON = "mesh: guard", "memmon"
MEMMON_TICK_S = 5
"""The shortest tick that supervisord has and memmon can use for limits that are seconds away; its usual one is 60 s."""

LISTENER = f"""
[eventlistener:memmon]
command = {BIN}/memmon -a 100GB
events = TICK_{MEMMON_TICK_S}
stderr_logfile = memmon.log
stdout_logfile = NONE

[group:workers]"""


class Cost(NamedTuple):
    """CPU time over the time of the measurement, in percent of a core; of a look, in ms; resident memory, in MiB."""

    share: float
    look_ms: float
    mib: float


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure with few and with many workers; write guard.json and guard.svg."""
    seconds = QUICK_SECONDS if quick else SECONDS
    found = {workers: measure(workers, seconds) for workers in WORKERS}
    data = {str(workers): {name: cost._asdict() for name, cost in costs.items()} for workers, costs in found.items()}
    skipped = [] if MEMMON in found[WORKERS[-1]] else ["memmon (pip install superlance)"]
    result = Result("guard", targets(found[WORKERS[-1]]), {"seconds": seconds, "workers": data}, quick, skipped)
    result.save(folder)
    _plot(found, folder)
    return result


def measure(workers: int, seconds: float) -> dict[str, Cost]:
    """Return what each watcher costs beside so many idle workers."""
    with Group() as group:
        text = (ROOT / "supervisord.conf").read_text(encoding="utf-8")
        text = text.replace("--engine embed", "--engine echo").replace("numprocs = 2", f"numprocs = {workers}")
        if shutil.which("memmon", path=str(BIN)):
            text = text.replace("[group:workers]", LISTENER)
        conf = group.dir / "bench.conf"
        conf.write_text(text, encoding="utf-8")
        subprocess.run(
            [BIN / "mlx-mesh", "up", "--detach", "--conf", conf], env=group.env, check=True, stderr=subprocess.DEVNULL
        )
        try:
            until(lambda: "guard_ready" in group.log("guard"), "the guard")
            watchers = _watchers(int((group.dir / "supervisord.pid").read_text()))
            time.sleep(2.0)
            before = {name: _cpu_s(process) for name, process in watchers.items()}
            time.sleep(seconds)
            costs = {name: _cost(name, p, _cpu_s(p) - before[name], seconds) for name, p in watchers.items()}
        finally:
            subprocess.run([BIN / "mlx-mesh", "down"], env=group.env, check=True, stdout=subprocess.DEVNULL)
    for name, cost in costs.items():
        progress(f"guard: {workers} workers, {name}: {cost.share:.2f} % of a core, {cost.mib:.0f} MiB")
    return costs


def targets(costs: dict[str, Cost]) -> list[Target]:
    """Return the lines of the table, for many workers."""
    guard, memmon = costs[GUARD], costs.get(MEMMON)
    ratio = guard.look_ms / memmon.look_ms if memmon is not None else math.nan
    ms = f"{guard.look_ms:.2f} ms" + (f", memmon {memmon.look_ms:.2f} ms" if memmon is not None else "")
    beside = f"beside {WORKERS[-1]} workers, one look a second"
    return [
        Target("CPU of the guard, of one core", "at most", SHARE_MOST, guard.share, "%", beside),
        Target("memory of the guard", "at most", MEMORY_MOST, guard.mib, "MiB", beside),
        Target("CPU of a look, guard to memmon", "at most", 1.0, ratio, "x", ms),
    ]


def _watchers(supervisord: int) -> dict[str, psutil.Process]:
    names = {"mlx-mesh-guard": GUARD, "memmon": MEMMON}
    found = {}
    for process in psutil.Process(supervisord).children():
        program = next((Path(word).name for word in process.cmdline() if Path(word).name in names), None)
        if program is not None:
            found[names[program]] = process
    return found


def _cpu_s(process: psutil.Process) -> float:
    """Return the CPU time of a process and of the children that it has waited for: memmon asks ``ps``."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _cost(name: str, process: psutil.Process, cpu_s: float, seconds: float) -> Cost:
    looks = seconds if name == GUARD else seconds / MEMMON_TICK_S
    return Cost(100 * cpu_s / seconds, 1e3 * cpu_s / looks, process.memory_info().rss / MIB)


def _plot(found: dict[int, dict[str, Cost]], folder: Path) -> None:
    from benchmarks.plots import bars

    many = found[WORKERS[-1]]
    panels = {
        "CPU of a look, ms": {name: cost.look_ms for name, cost in many.items()},
        "resident memory, MiB": {name: cost.mib for name, cost in many.items()},
    }
    bars(folder / "guard.svg", f"Watching {WORKERS[-1]} workers", panels)
