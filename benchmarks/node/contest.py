"""The contestants: their services are started once, and each measurement has a client process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Self

from benchmarks.embed.texts import texts
from benchmarks.machine import nats_server
from benchmarks.node.tools import CLIENT, Tools
from benchmarks.processes import PATIENCE_S, ROOT, Conversation, Group, Process, cpu_s, free_port, listens, until

BENCH = CLIENT / "bench"
WORKERS = 2
IN_FLIGHT = 64
EMBED_CALLERS = 8

MESH = "mesh"
NATS = "nats.js, workers in Python"
NATS_NODE = "nats.js, workers in Node"
PISCINA = "piscina, one thread"
SPAWNED = "a Python for each call"
EMBED = "mesh, embed"

Figures = dict[str, float]


class Contestant(NamedTuple):
    """What the client process is asked to be, and the processes behind it."""

    asked: dict[str, Any]
    pids: list[int]


class Contest:
    """A mesh that echoes and one that embeds, NATS with workers of two kinds, a thread, and a process for each call.

    Attributes:
        contestants: those who can run here, for echo.
        skipped: those who cannot, each with the reason.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._stack = ExitStack()
        self.contestants: dict[str, Contestant] = {}
        self.skipped: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._group, self._embedding = self._stack.enter_context(Group()), self._stack.enter_context(Group())
            self._start_mesh()
            self._start_nats()
            if self._tools.peers is not None:
                self.contestants[PISCINA] = Contestant({"kind": "piscina"}, [])
            else:
                self.skipped.append(f"piscina: {self._tools.lacks}")
            self.contestants[SPAWNED] = Contestant({"kind": "python", "address": sys.executable}, [])
            self._embed = self._start_embed()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def echo(self, name: str, seconds: float) -> Figures:
        """Measure one contestant with 1 call in flight, then with 64; latencies are in microseconds."""
        contestant = self.contestants[name]
        with self._client(contestant) as client:
            _measured(client, IN_FLIGHT, min(1.0, seconds))  # What it compiles, connects and caches is no part of it.
            alone = _measured(client, 1, seconds)
            before = sum(map(cpu_s, contestant.pids))
            together = _measured(client, IN_FLIGHT, seconds)
            served = (sum(map(cpu_s, contestant.pids)) - before) / together["count"] * 1e6
        return {
            **{f"{figure}_1": alone[figure] for figure in ("p50", "p95", "p99")},
            **{f"{figure}_64": together[figure] for figure in ("p50", "p95", "p99")},
            "calls_per_s_1": alone["calls_per_s"],
            "calls_per_s": together["calls_per_s"],
            "client_cpu_us": together["client_cpu_us"],
            "service_cpu_us": served,
        }

    def embed(self, seconds: float) -> Figures:
        """Measure single texts of 8 callers; latencies are in milliseconds."""
        with self._client(self._embed) as client:
            _measured(client, EMBED_CALLERS, min(1.0, seconds))
            found = _measured(client, EMBED_CALLERS, seconds)
        return {
            **{figure: found[figure] / 1e3 for figure in ("p50", "p95", "p99")},
            "texts_per_s": found["calls_per_s"],
        }

    def _start_mesh(self) -> None:
        broker = self._group.mesh("echo", WORKERS)
        pids = [broker.pid, *_worker_pids(self._group)]
        self.contestants[MESH] = Contestant({"kind": "mesh", "address": self._group.endpoint}, pids)

    def _start_embed(self) -> Contestant:
        self._embedding.mesh("embed", WORKERS)
        asked = self._embedding.dir / "texts.json"
        asked.write_text(json.dumps(texts()), encoding="utf-8")
        return Contestant({"kind": "embed", "address": self._embedding.endpoint, "texts": str(asked)}, [])

    def _start_nats(self) -> None:
        server = nats_server()
        if server is None:
            self.skipped.append("nats.js: nats-server is not installed (Debian: apt-get install nats-server)")
            return
        if self._tools.peers is None:
            self.skipped.append(f"nats.js: {self._tools.lacks}")
            return
        port = free_port()
        middle = self._group.start(server, "-a", "127.0.0.1", "-p", str(port), log="nats-server")
        until(lambda: listens(port), "nats-server")
        url = f"nats://127.0.0.1:{port}"
        if importlib.util.find_spec("nats") is not None:
            python = (sys.executable, "-m", "benchmarks.rpc.servers", "nats", url)
            self._add_nats(
                NATS, middle, url, "echo", [self._group.start(*python, log="nats-py") for _ in range(WORKERS)]
            )
        else:
            self.skipped.append(f"{NATS}: the package nats is not installed (scripts/setup peers)")
        node = (self._tools.node, BENCH / "responder.mjs", self._tools.peers, url, "echo-node")
        workers = [self._group.start(*node, log="nats-node") for _ in range(WORKERS)]
        self._add_nats(NATS_NODE, middle, url, "echo-node", workers)

    def _add_nats(self, name: str, middle: Process, url: str, subject: str, workers: list[Process]) -> None:
        pids = [middle.pid, *(worker.pid for worker in workers)]
        self.contestants[name] = Contestant({"kind": "nats", "address": url, "subject": subject}, pids)

    @contextmanager
    def _client(self, contestant: Contestant) -> Iterator[Conversation]:
        asked = {**contestant.asked, "client": str(self._tools.client), "peers": str(self._tools.peers)}
        process = subprocess.Popen(
            [self._tools.node, BENCH / "load.mjs", json.dumps(asked)],
            env=self._group.env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            yield Conversation(process)
            process.communicate(timeout=PATIENCE_S)  # The end of its input is what it leaves at.
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _measured(client: Conversation, callers: int, seconds: float) -> Figures:
    found: Figures = client.ask(json.dumps({"callers": callers, "seconds": seconds}))
    return found


def _worker_pids(group: Group) -> list[int]:
    from mlx_mesh import Mesh

    with Mesh(group.endpoint) as mesh:
        return [worker["pid"] for worker in mesh.status()["workers"]]
