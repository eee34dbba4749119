"""Faults of what is around the mesh: descriptors, disks, paths, clocks, other programs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.faults.mixes import network, processes
from tests.faults.mixes.stage import Stage
from tests.live import Process, until

TOP = Path(__file__).parents[3]

BACKWARDS = """
import time

_real, _monotonic = time.time, time.monotonic
_begun = _monotonic()
time.time = lambda: _real() - 3600.0 * int(_monotonic() - _begun)
time.time_ns = lambda: int(time.time() * 1e9)
"""
"""A ``sitecustomize`` for every process of the mesh: once a second the wall clock goes back by an hour."""


def few_descriptors(stage: Stage) -> None:
    """Take all the descriptors that the broker may have, for seconds; meanwhile workers die, too."""
    while stage.pause(0.5, 1.5):
        held = [peer for _ in range(80) if (peer := _connection(stage.mesh.dir / "frontend.sock")) is not None]
        stage.faults["connections that take descriptors"] += len(held)
        stage.pause(0.2, 0.5)
        if stage.chance.random() < 0.3:
            stage.kill_worker()
        stage.pause(0.2, 2.5)
        for peer in held:
            peer.close()


def _connection(path: Path) -> socket.socket | None:
    peer = socket.socket(socket.AF_UNIX)
    peer.setblocking(False)
    try:
        peer.connect(str(path))
    except OSError:
        peer.close()
        return None
    return peer


def paths(stage: Stage) -> None:
    """Delete or steal the paths of the broker's sockets; it makes them anew itself, unless it is killed before."""
    while stage.pause(0.5, 1.0):
        thieves = []
        for name in ("frontend.sock", "backend.sock"):
            path = stage.mesh.dir / name
            path.unlink(missing_ok=True)
            if stage.chance.random() < 0.5:
                thieves.append(socket.socket(socket.AF_UNIX))
                thieves[-1].bind(str(path))
                thieves[-1].listen(64)
                stage.faults["paths stolen"] += 1
            else:
                stage.faults["paths deleted"] += 1
        stage.pause(0.5, 2.0)
        if stage.chance.random() < 0.5:
            stage.kill_broker(blindly=True)
        for thief in thieves:
            thief.close()
        with contextlib.suppress(AssertionError):
            until(lambda: len(stage.ready()) == len(stage.workers), "all workers", 10)


def wall_clock(stage: Stage) -> None:
    """Kill a worker now and then while the wall clock runs backwards, so that new ones meet it, too."""
    while stage.pause(0.5, 1.0):
        stage.faults["looks at a clock that goes back"] += 1
        stage.kill_worker()


def set_back(stage: Stage) -> None:
    """Have all processes that are started now believe in such a clock."""
    (stage.mesh.dir / "sitecustomize.py").write_text(BACKWARDS, encoding="utf-8")


def client_kills(stage: Stage) -> None:
    """SIGKILL clients in the middle of their calls, and workers, which may hold what nobody asks for."""
    number = 0
    victims: list[Process] = []
    while stage.pause(0.3, 1.0):
        number += 1
        victims.append(_victim(stage, number))
        stage.kill_worker()
        if len(victims) > 1 and stage.pause(0.3, 0.6):
            victim = victims.pop(0)
            victim.kill()
            victim.wait()
            stage.faults["client kills"] += 1
    for victim in victims:
        victim.kill()
        victim.wait()


def _victim(stage: Stage, number: int) -> Process:
    task = {
        "endpoint": stage.endpoint,
        "client": stage.chance.choice(("async", "sync")),
        "who": f"victim-{number}",
        "seed": number,
        "seconds": 60.0,
        "marks": str(stage.mesh.dir),
    }
    command = [sys.executable, "-m", "tests.faults.mixes.load", json.dumps(task)]
    with (stage.mesh.dir / "victims.log").open("ab") as log:
        process = subprocess.Popen(command, env=stage.mesh.env, cwd=TOP, stdout=subprocess.DEVNULL, stderr=log)
    stage.mesh.processes.append(process)
    return process


def everything(stage: Stage) -> None:
    """Do all that can be done to a mesh of which both sides are behind proxies."""
    near, far = network.proxies(stage)

    def toxics() -> None:
        for way in network.ways(stage):
            way.latency_s = stage.chance.choice((0.0, 0.02, 0.1))
            way.slice_bytes = stage.chance.choice((0, 0, 200))
        stage.faults["changes of latency"] += 1

    def reset() -> None:
        proxy = stage.chance.choice((near, far))
        stage.faults["resets"] += proxy.open
        proxy.reset()

    def half_open() -> None:
        proxy = stage.chance.choice((near, far))
        stage.faults["half-open"] += proxy.open
        proxy.half_open()

    def stop() -> None:
        stage.freeze(stage.chance.choice([*stage.workers, "broker"]), stage.chance.choice((0.1, 0.5, 2.0)))

    deeds: dict[Callable[[], None], int] = {
        stage.kill_worker: 6, stop: 4, stage.kill_broker: 2, toxics: 2, reset: 2, half_open: 1,
    }  # fmt: skip
    while stage.pause(0.2, 0.8):
        stage.chance.choices([*deeds], [*deeds.values()])[0]()


def full_disk() -> str:
    """Return where every write fails as on a full disk; empty where there is no such place."""
    return "/dev/full" if os.path.exists("/dev/full") else ""  # noqa: PTH110  a device


def logs(stage: Stage) -> None:
    """Kill and stop what writes its log onto a full disk."""
    while stage.pause(0.5, 1.5):
        stage.chance.choice((stage.kill_worker, stage.kill_broker, lambda: processes.short_stop(stage)))()
