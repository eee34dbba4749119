"""The worker as a process that is trimmed, asked for its stacks, loads in the midst of its work, is told to leave."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import pytest

from mlx_mesh import Mesh, WorkerLostError
from mlx_mesh_wire import messages
from tests.live import PATIENCE_S, LiveMesh, until
from tests.worker.peer import Peer

MINE = """
import os, time
from pathlib import Path
from mlx_mesh_worker.blas import load_blas
from mlx_mesh_worker.engine import BatchEngine

class Hoarder(BatchEngine):
    ops = ("hoard",)
    def load(self):
        self.hoard = [b"x" * 65_536 for _ in range(128 * 16)]
    def run(self, batch):
        return batch
    def trim(self, level):
        if level == 1: raise RuntimeError("not yet")
        if level == 2: self.hoard = self.hoard[::100]  # what is left keeps the heaps of the C library from being freed
    def memory(self):
        return {"hoard": sum(map(len, self.hoard))}

class Lazy(BatchEngine):
    ops = ("lazy",)
    def run(self, batch):
        with self.loading():
            time.sleep(batch[0])
        return batch

class Long(BatchEngine):
    ops = ("long",)
    def load(self):
        load_blas()  # with which MLX crashes when a process ends as usual in the midst of a product
        import mlx.core as mx
        self.mx = mx
    def run(self, batch):
        begun = Path("begun")
        if begun.exists():
            return [os.getpid() for _ in batch]
        begun.touch()
        x = self.mx.ones((2000, 2000))
        for _ in range(5000):
            x = x @ x / 2000
        self.mx.eval(x)

class Loads(Hoarder):
    def load(self): time.sleep(60)
"""

SLOW_IMPORT = """
import time
from pathlib import Path
Path("importing").touch()
time.sleep(60)
"""


@pytest.fixture
def mesh(mesh: LiveMesh) -> LiveMesh:
    mesh.engine(MINE)
    return mesh


def beat(peer: Peer, hoard: int) -> messages.Beat:
    """Return the first beat that tells of so many bytes."""

    def look() -> Any:
        message, _ = peer.take(messages.Beat)
        return message if message.memory.get("hoard") == hoard else None  # it beats before it has loaded, too

    return until(look, f"a beat with {hoard} bytes")  # type: ignore[no-any-return]


def test_an_idle_worker_gives_memory_back_and_writes_its_stacks(mesh: LiveMesh, peer: Peer) -> None:
    mesh.worker("mine:Hoarder")
    peer.take(messages.Ready)
    before = beat(peer, 2048 * 65_536)
    peer.send(messages.Trim(1))
    until(lambda: "RuntimeError: not yet" in mesh.log("w"), "the traceback")
    peer.send(messages.Trim(2))
    after = beat(peer, 21 * 65_536)
    if sys.platform == "linux":
        assert before.memory["rss"] - after.memory["rss"] > 100 * 2**20
    for reason in ("no step for 30 s", "no step for 31 s"):
        peer.send(messages.Dump(reason))
    peer.job(1, "still here")
    assert peer.answer() == (1, "still here")
    log = mesh.log("w")
    assert "stalled reason=no step for 30 s" in log
    assert 1 == log.count("stalled") == log.count("Current thread")
    assert "in _main" in log, "the compute thread is among them"
    assert "trimmed trim_level=2" in log


def test_a_declared_load_is_neither_a_stall_nor_stuck(mesh: LiveMesh) -> None:
    mesh.broker("--stall-s", "3", "--beat-s", "0.2")
    mesh.worker("mine:Lazy", "w", "--stuck-s", "1")
    with Mesh(mesh.endpoint) as client:
        client.ready(["lazy"], timeout=2 * PATIENCE_S)
        assert 3.4 == client.call("lazy", 3.4)
        assert "worker_stalled" not in mesh.log("broker")


def test_a_load_that_takes_longer_than_a_load_may_ends_the_process(mesh: LiveMesh) -> None:
    mesh.broker()
    worker = mesh.worker("mine:Lazy", "w", "--load-max-s", "3")
    with Mesh(mesh.endpoint) as client:
        client.ready(["lazy"], timeout=2 * PATIENCE_S)
        with pytest.raises(WorkerLostError):
            client.call("lazy", 60, timeout=PATIENCE_S, at_most_once=True)
    assert 70 == worker.wait(PATIENCE_S)
    assert "stuck what=loading" in mesh.log("w")


def test_hurry_ends_a_process_in_the_midst_of_a_long_step_and_no_death_is_counted(mesh: LiveMesh) -> None:
    mesh.broker("--deaths-max", "1")
    answers: list[Any] = []
    first = mesh.worker("mine:Long", "first")
    with Mesh(mesh.endpoint) as client:
        client.ready(["long"], timeout=2 * PATIENCE_S)
        caller = threading.Thread(target=lambda: answers.append(client.call("long", 1, timeout=3 * PATIENCE_S)))
        caller.start()
        until((mesh.dir / "begun").exists, "the step to begin")
        second = mesh.worker("mine:Long", "second")
        until(lambda: serves(client, "second"), "the second worker")
        first.send_signal(signal.SIGTERM)
        until(lambda: "draining" in mesh.log("first"), "the worker to drain")
        first.send_signal(signal.SIGTERM)
        assert 0 == first.wait(PATIENCE_S)
        caller.join()
    assert [second.pid] == answers
    until(lambda: "told to hurry" in mesh.log("broker"), "the reason in the broker's log")


def serves(client: Mesh, name: str) -> bool:
    return any((name, "ready") == (worker["name"], worker["state"]) for worker in client.status()["workers"])


def test_sigterm_while_loading_leaves_at_once(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Loads")
    peer.take(messages.Loading)
    process.send_signal(signal.SIGTERM)
    assert messages.Bye("told to leave while loading") == peer.take(messages.Bye)[0]
    assert 0 == process.wait(PATIENCE_S)
    assert [] == list((mesh.dir / "recorders").iterdir())


def test_sigterm_while_the_engine_is_imported_leaves_at_once(mesh: LiveMesh) -> None:
    mesh.engine(SLOW_IMPORT)
    process = mesh.worker("mine:Any")
    until((mesh.dir / "importing").exists, "the import to begin")
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(PATIENCE_S)
    assert [] == list((mesh.dir / "recorders").iterdir())
    assert "Traceback" not in mesh.log("w")
