"""One attack on one broker: what it did to the others, and what is left of it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.processes import free_port
from mlx_mesh import Mesh
from mlx_mesh_broker.main import EXIT_CANNOT_BIND
from tests.abuse import connections, messages_sent, services  # noqa: F401  they enter their attacks into the table
from tests.abuse.bystander import Bystanders, favour
from tests.abuse.target import ATTACKS, Target
from tests.live import LiveMesh, Process, live_mesh, until

TOP = Path(__file__).parents[2]
GAP_MAX_S = 0.1
"""How long the broker's loop may be away from its sockets, and a call may take longer because of an attack."""

RSS_SLACK = 32 << 20
"""What the allocator may keep: its free lists, and the arenas of threads that have ended."""

FDS_SLACK = 4
SCRAPE_S = 60.0
CALM_S = 2.0
SETTLE_S = 20.0
"""Longer than a handshake may take, and than the answers of a client that is gone are kept."""


class Outcome(NamedTuple):
    """What an attack did; sizes in bytes, times in seconds."""

    name: str
    done: int
    calls: int
    failed: dict[str, int]
    gap_s: float
    longer_s: float
    machine_s: float
    rss_peak: int
    rss_left: int
    fds_left: int
    settled_s: float

    @property
    def faults(self) -> list[str]:
        """Return what is wrong with it, in words."""
        bound = GAP_MAX_S + self.machine_s
        found = [f"{count} calls failed: {reason}" for reason, count in self.failed.items()]
        if not self.done:
            found.append("the attack did nothing")
        if not self.calls:
            found.append("no good call was answered")
        if self.gap_s > bound:
            found.append(f"the loop was away for {self.gap_s:.3f} s")
        if self.longer_s > bound:
            found.append(f"a call took {self.longer_s:.3f} s longer")
        if self.rss_left > RSS_SLACK:
            found.append(f"{self.rss_left >> 20} MiB are left")
        if self.fds_left > FDS_SLACK:
            found.append(f"{self.fds_left} descriptors are left")
        return found


class Broker(NamedTuple):
    """A broker with a worker, ready to be attacked."""

    mesh: LiveMesh
    process: psutil.Process
    tcp: str
    metrics_port: int

    def target(self) -> Target:
        """Return where to attack."""
        ipc = {name: f"ipc://{self.mesh.dir}/{name}.sock" for name in ("frontend", "control", "events")}
        return Target(self.tcp, ipc["frontend"], ipc["control"], ipc["events"], self.metrics_port)

    def gap_s(self) -> float:
        """Return the longest gap of the last minute that the broker itself tells of."""
        page: str = until(self._page, "the broker's loop to answer a scrape", SCRAPE_S)
        found = re.search(r"^mlx_mesh_loop_gap_seconds (\S+)", page, re.MULTILINE)
        assert found
        return float(found[1])

    def _page(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


def started(mesh: LiveMesh) -> tuple[Process, str]:
    """Start a broker on a free port, on another one if somebody was faster; return it and its endpoint."""
    while True:
        tcp = f"tcp://127.0.0.1:{free_port()}"
        process = mesh.broker("--listen", tcp, "--metrics-port", "0")
        until(lambda it=process: "broker_ready" in mesh.log("broker") or it.poll() is not None, "a broker, or its end")
        if process.poll() != EXIT_CANNOT_BIND:
            return process, tcp


@contextmanager
def attackable() -> Iterator[Broker]:
    """Start a broker with a TCP endpoint, and an echo worker."""
    with live_mesh() as mesh:
        process, tcp = started(mesh)
        worker = mesh.worker()
        for each in (process, worker):
            for thread in psutil.Process(each.pid).threads():
                favour(thread.id)
        with Mesh(mesh.endpoint) as client:
            client.ready(["echo"], timeout=30)
        found = re.search(r"127\.0\.0\.1:(\d+)/metrics", mesh.log("broker"))
        assert found
        yield Broker(mesh, psutil.Process(process.pid), tcp, int(found[1]))


def trial(name: str, seconds: float, settle_s: float = SETTLE_S) -> Outcome:
    """Attack a new broker for so many seconds, with good clients beside it, and give it so many to settle."""
    with attackable() as broker, Bystanders(broker.mesh.endpoint, broker.tcp) as good:
        until(lambda: good.calls, "the first call")
        good.begin()
        time.sleep(min(CALM_S, seconds / 2))
        usual_s = good.longest_s
        broker.gap_s()  # The first scrape imports what it needs.
        rss, fds = broker.process.memory_info().rss, broker.process.num_fds()
        good.begin()
        done, peak = under_attack(broker, name, seconds)
        until(lambda: good.calls or good.failed, "an answer, or word that there is none in time")
        calls, failed = good.calls, dict(good.failed)
        longer_s, machine_s = max(0.0, good.longest_s - usual_s), good.late_s
        gap_s = broker.gap_s()
        left = settle(broker, rss, fds, settle_s)
        return Outcome(name, done, calls, failed, gap_s, longer_s, machine_s, peak - rss, *left)


def under_attack(broker: Broker, name: str, seconds: float) -> tuple[int, int]:
    """Run the attack to its end; return how often it did what it does, and the broker's largest RSS meanwhile."""
    command = (sys.executable, "-m", "tests.abuse.attacker", name, broker.target().encode(), str(seconds))
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=TOP, text=True) for _ in range(ATTACKS[name].processes)
    ]
    peak = 0
    try:
        while any(each.poll() is None for each in running):
            peak = max(peak, broker.process.memory_info().rss)
            time.sleep(0.05)
    finally:
        for each in running:
            each.kill()
    return sum(int(each.communicate()[0] or 0) for each in running), peak


def settle(broker: Broker, rss: int, fds: int, seconds: float) -> tuple[int, int, float]:
    """Wait until memory and descriptors are what they were.

    Returns:
        What is left of both, and how long that took, or was waited for at most.
    """
    began = time.monotonic()
    while True:
        left = broker.process.memory_info().rss - rss, broker.process.num_fds() - fds
        passed_s = time.monotonic() - began
        if (left[0] <= RSS_SLACK and left[1] <= FDS_SLACK) or passed_s >= seconds:
            return *left, passed_s
        time.sleep(0.1)
