"""From the start of a worker's process to READY, by phase; beside a process that is spawned for every call."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import percentile
from benchmarks.processes import BIN, Group, Process, until
from benchmarks.progress import progress
from benchmarks.results import Result, Target
from mlx_mesh.cli.demo import COLD_CALL

ROUNDS = 10
QUICK_ROUNDS = 2
READY_WITHIN_S = 0.8

PHASES = ("interpreter", "program's imports", "engine's imports", "model load", "warm-up", "connect and READY")
LEAVE = "import os; os._exit(0)"
"""Ends without tidying up, which is no part of starting."""

IMPORTS = f"import mlx_mesh_worker.main; {LEAVE}"
Row = dict[str, float]


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure in interleaved rounds; write coldstart.json and coldstart.svg."""
    rounds: list[Row] = []
    with Group() as group:
        group.broker()
        until(lambda: "broker_ready" in group.log("broker"), "the broker")
        for number in range(QUICK_ROUNDS if quick else ROUNDS):
            rounds.append(row := _round(group))
            progress(f"coldstart: round {number + 1}: READY after {row['total']:.0f} ms")
    result = Result("coldstart", targets(rounds), {"unit": "ms", "medians": _medians(rounds), "rounds": rounds}, quick)
    result.save(folder)
    _plot(_medians(rounds), folder)
    return result


def phases(interpreter_ms: float, bare_ms: float, total_ms: float, logged: dict[str, float]) -> Row:
    """Return what each phase took, in milliseconds.

    Args:
        interpreter_ms: a Python that does nothing.
        bare_ms: one that imports the worker's program, and no more.
        total_ms: from spawning a worker until it said that it is ready.
        logged: what the worker itself says of the rest.
    """
    parts = {
        "interpreter": interpreter_ms,
        "program's imports": max(0.0, bare_ms - interpreter_ms),
        "engine's imports": logged["import_ms"],
        "model load": logged["load_ms"],
        "warm-up": logged["warm_ms"],
    }
    return {**parts, "connect and READY": max(0.0, total_ms - sum(parts.values())), "total": total_ms}


def parse_ready(line: str) -> dict[str, float]:
    """Return the times in a worker's ``worker_ready`` log line."""
    return {name: float(value) for name, value in re.findall(r"(\w+_ms)=(\d+)", line)}


def targets(rounds: list[Row]) -> list[Target]:
    """Return the line of the table."""
    total = [row["total"] / 1e3 for row in rounds]
    detail = ", ".join(f"{phase} {ms:,.0f}" for phase, ms in _medians(rounds).items() if phase in PHASES)
    what = "worker start to READY with MiniLM, median"
    return [
        Target(
            what, "at most", READY_WITHIN_S, median(total), "s", f"p95 {percentile(total, 0.95):.2f} s; ms: {detail}"
        )
    ]


def _round(group: Group) -> Row:
    interpreter = _timed(group, LEAVE)
    bare = _timed(group, IMPORTS)
    began = time.perf_counter()
    worker = subprocess.Popen(
        [BIN / "mlx-mesh-worker", "--engine", "embed", "--name", "cold"], env=group.env, stderr=subprocess.PIPE
    )
    line = _ready_line(worker)
    total = (time.perf_counter() - began) * 1e3
    worker.terminate()
    worker.communicate()
    per_call = _timed(group, COLD_CALL, "a sentence for a process that is spawned for it")
    return {**phases(interpreter, bare, total, parse_ready(line)), "process per call": per_call}


def _timed(group: Group, code: str, *args: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *args], env=group.env, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1e3


def _ready_line(worker: Process) -> str:
    assert worker.stderr is not None
    seen = b""
    for line in worker.stderr:
        seen += line
        if b"worker_ready" in line:
            return line.decode()
    raise RuntimeError(f"the worker ended with {worker.wait()}: {seen.decode(errors='replace')}")


def _medians(rounds: list[Row]) -> Row:
    return {name: median([row[name] for row in rounds]) for name in rounds[0]}


def _plot(medians: Row, folder: Path) -> None:
    from benchmarks.plots import stacked

    rows: dict[str, Any] = {
        "worker to READY": {phase: medians[phase] for phase in PHASES},
        "process per call": {"everything, for one text": medians["process per call"]},
    }
    stacked(folder / "coldstart.svg", "Start of an embed worker, all-MiniLM-L6-v2", rows, "milliseconds")
