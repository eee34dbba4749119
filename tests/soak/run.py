"""Runs the load on a mesh under supervisord, recycles workers now and then, and samples all the while."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import percentile
from benchmarks.llama import make_llama
from mlx_mesh import AsyncMesh, MeshError
from tests.faults.callers import added_program, changed_conf
from tests.faults.soak import supervisor
from tests.live import BIN, LiveMesh, live_mesh
from tests.soak.load import Load
from tests.soak.sampling import Lives, pids_of, sample

SAMPLE_S = 1.0
RECYCLED = ("embed-1", "echo-1")
"""The others live from beginning to end, so that their memory can be followed."""

FULL_SOON = {
    "MLX_MESH_BROKER_CACHE_MAX_BYTES": str(1 << 20),
    "MLX_MESH_GENERATE_PREFIX_MAX_BYTES": str(4 << 20),
    "MLX_MESH_GENERATE_CACHE_LIMIT": str(32 << 20),
}
"""What is kept on purpose is full within a minute, so that what grows after that is a leak."""


class Latency(NamedTuple):
    """Milliseconds of the calls of one kind within one sample."""

    at_s: float
    p50: float
    p95: float
    p99: float
    calls: int


class Found(NamedTuple):
    """What a soak found."""

    seconds: float
    done: dict[str, int]
    wrong: dict[str, int]
    recycles: int
    lives: Lives
    latencies: dict[str, list[Latency]]


def run(seconds: float, *, recycle_s: float) -> Found:
    """Start a mesh with every engine, soak it, and stop it."""
    with tempfile.TemporaryDirectory() as folder, live_mesh() as mesh:
        model = make_llama(Path(folder) / "tiny-llama", "tiny")
        conf = changed_conf(mesh, added_program("echo", "echo", workers=2))
        mesh.env |= {"MLX_MESH_GENERATE_MODEL": str(model), **FULL_SOON}
        mesh.env["PATH"] = f"{BIN}{os.pathsep}{mesh.env['PATH']}"
        supervisor(mesh, "up", "--detach", "--conf", str(conf))
        try:
            return asyncio.run(_soak(mesh, seconds, recycle_s))
        finally:
            supervisor(mesh, "down")


async def _soak(mesh: LiveMesh, seconds: float, recycle_s: float) -> Found:
    lives: Lives = {}
    latencies: dict[str, list[Latency]] = {}
    began = time.monotonic()
    async with AsyncMesh(mesh.endpoint) as observer, Load(mesh.endpoint) as load:
        over = asyncio.Event()
        recycler = asyncio.create_task(_recycle(mesh, recycle_s, over))
        load.take()
        for number in itertools.count(1):
            at_s = time.monotonic() - began
            if at_s >= seconds:
                break
            try:
                sample(lives, at_s, pids_of(await observer.status(timeout=10), mesh))
            except MeshError as error:
                load.wrong[f"status: {error.code}"] += 1
            _note(latencies, at_s, load.take())
            await asyncio.sleep(max(0.0, began + number * SAMPLE_S - time.monotonic()))
        over.set()
        recycles = await recycler
    return Found(seconds, dict(load.done), dict(load.wrong), recycles, lives, latencies)


def _note(latencies: dict[str, list[Latency]], at_s: float, taken: dict[str, list[float]]) -> None:
    for kind, values in taken.items():
        if values:
            shares = (1e3 * percentile(values, share) for share in (0.5, 0.95, 0.99))
            latencies.setdefault(kind, []).append(Latency(at_s, *shares, len(values)))


async def _recycle(mesh: LiveMesh, every_s: float, over: asyncio.Event) -> int:
    """Recycle one worker after another until all is over; return how many."""
    done = 0
    for name in itertools.cycle(RECYCLED):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), every_s)
        if over.is_set():
            break
        arguments: tuple[Any, ...] = (BIN / "mlx-mesh", "recycle", name)
        process = await asyncio.create_subprocess_exec(
            *arguments, env=mesh.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        done += await process.wait() == 0
    return done
