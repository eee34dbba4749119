"""What supervision promises, under load: nobody notices deaths, stops, restarts, upgrades and other numbers of workers.

``python -m tests.faults.supervision [deaths] [frozen] [stuck] [rolling] [crashes]`` (all of them by default)
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.request import urlopen

from mlx_mesh import Mesh, MeshError, NoWorkerError
from tests.faults.callers import WITNESS, Callers, added_program, changed_conf
from tests.faults.soak import supervisor
from tests.live import BIN, PATIENCE_S, LiveMesh, live_mesh, until

HELD_S = 0.02
"""A call that began so long before a death was with the worker when that died, unless another had it."""


GIVEN_UP = "(FATAL|EXITED)"
"""What supervisord calls a process that fails to load: a slow one has been up for ``startsecs`` by then."""


class Outcome(NamedTuple):
    name: str
    calls: int
    failed: Counter[str]
    figures: dict[str, Any]

    @property
    def good(self) -> bool:
        return self.calls > 0 and not self.failed


@contextmanager
def witnesses(mesh: LiveMesh, *changes: tuple[str, str]) -> Iterator[LiveMesh]:
    """Run two workers of the engine ``Witness`` under supervisord, with the guard."""
    mesh.engine(WITNESS)
    conf = changed_conf(mesh, ("--engine embed", "--engine mine:Witness"), *changes)
    supervisor(mesh, "up", "--detach", "--conf", str(conf))
    try:
        yield mesh
    finally:
        supervisor(mesh, "down")


def status(mesh: LiveMesh) -> dict[str, Any]:
    with Mesh(mesh.endpoint) as client:
        return client.status(timeout=PATIENCE_S)


def ready_pids(mesh: LiveMesh) -> dict[str, int]:
    """Return the workers that are ready; none while no broker answers."""
    try:
        return {worker["name"]: worker["pid"] for worker in status(mesh)["workers"] if worker["state"] == "ready"}
    except MeshError:
        return {}


def supervisorctl(mesh: LiveMesh, *words: str) -> str:
    conf = mesh.dir / "changed.conf"
    command = [BIN / "supervisorctl", "-c", conf, *words]
    return subprocess.run(command, env=mesh.env, capture_output=True, text=True, timeout=120, check=False).stdout


def deaths(mesh: LiveMesh, kills: int) -> Outcome:
    """Kill a worker again and again; measure until what it held is given to another."""
    died: dict[int, float] = {}
    with Callers(mesh, callers=6, seconds=0.2) as callers:
        for number in range(kills):
            pids = until(lambda: len(found := ready_pids(mesh)) == 2 and found, "two workers", 60)
            victim = sorted(pids.values())[number % 2]
            until(lambda pid=victim: holds(mesh, pid), "a worker that holds something")
            os.kill(victim, signal.SIGKILL)
            died[victim] = time.monotonic()
            until(lambda pid=victim: (found := ready_pids(mesh)) and pid not in found.values(), "word of its death", 60)
    # Requests are bound when a worker has a place for them, and there are places enough for all.
    moves = [
        call.admitted - at
        for victim, at in died.items()
        for call in callers.calls
        if call.began < at - HELD_S and call.admitted > at and call.pid != victim
    ]
    figures = {
        "kills": kills,
        "moved": len(moves),
        "median_ms": round(1e3 * statistics.median(moves), 1) if moves else None,
        "worst_ms": round(1e3 * max(moves), 1) if moves else None,
    }
    return Outcome("deaths", len(callers.calls), callers.failed, figures)


def holds(mesh: LiveMesh, pid: int) -> int:
    """Return how many jobs the worker of a pid holds."""
    return sum(worker["in_flight"] for worker in status(mesh)["workers"] if worker["pid"] == pid)


def frozen(mesh: LiveMesh, seconds: float) -> Outcome:
    """SIGSTOP a worker for so long; measure until it is replaced."""
    pids = until(lambda: len(found := ready_pids(mesh)) == 2 and found, "two workers", 60)
    with Callers(mesh, callers=6) as callers:
        name, victim = next(iter(pids.items()))
        until(lambda: holds(mesh, victim), "a worker that holds something", 60)
        os.kill(victim, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            until(lambda: ready_pids(mesh).get(name, victim) != victim, "another process", seconds)
            replaced = time.monotonic() - stopped
        finally:
            _send(victim, signal.SIGCONT)
        time.sleep(1.0)
    longest = max(call.seconds for call in callers.calls)
    figures = {"replaced_after_s": round(replaced, 1), "longest_call_s": round(longest, 2)}
    return Outcome("frozen", len(callers.calls), callers.failed, figures)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


STICKY = """
[program:sticky]
command = mlx-mesh-worker --engine mine:Sticky --name sticky-%(process_num)d
process_name = sticky-%(process_num)d
numprocs = 2
priority = 200
autorestart = unexpected
exitcodes = 2,78
stopwaitsecs = 40
redirect_stderr = true
stdout_logfile = sticky-%(process_num)d.log

[group:workers]"""


WAYS = ("stand still", "hold the interpreter")


def stuck(mesh: LiveMesh, ways: Sequence[str] = WAYS) -> Outcome:
    """Have a step stand still, and one that holds the interpreter; both are noticed, told by stacks, and replaced."""
    figures: dict[str, Any] = {}
    with Callers(mesh) as callers, Mesh(mesh.endpoint) as client:
        client.ready(["sticky"], timeout=60)
        for words in ways:
            before = until(lambda: len(found := _named(mesh, "sticky")) == 2 and found, "both workers", 60)
            began = time.monotonic()
            answered = client.call("sticky", words, timeout=60.0, cache=False)
            figures[f"{words}: answered_after_s"] = round(time.monotonic() - began, 1)
            after = until(lambda old=before: _successor(mesh, old), "a successor", 60)
            name = next(name for name in after if after[name] != before[name])
            assert answered in before.values()
            assert re.search(r"thread .*most recent call first(.*\n)+?.* in run$", mesh.log(name), re.MULTILINE)
            figures[f"{words}: replaced_after_s"] = round(time.monotonic() - began, 1)
    return Outcome("stuck", len(callers.calls), callers.failed, figures)


def _named(mesh: LiveMesh, prefix: str) -> dict[str, int]:
    return {name: pid for name, pid in ready_pids(mesh).items() if name.startswith(prefix)}


def _successor(mesh: LiveMesh, before: dict[str, int]) -> dict[str, int]:
    now = _named(mesh, "sticky")
    return now if now.keys() == before.keys() and now != before else {}


def rolling(mesh: LiveMesh) -> Outcome:
    """Restart each worker by supervisorctl, all by ``mlx-mesh recycle``, then the broker; scale up and down."""
    steps: dict[str, Any] = {}
    with Callers(mesh) as callers:
        until(lambda: callers.calls, "calls", 60)
        for name in ("embed-0", "embed-1"):
            before = until(lambda: len(found := ready_pids(mesh)) == 2 and found, "two workers", 60)
            assert f"workers:{name}: started" in supervisorctl(mesh, "restart", f"workers:{name}")
            until(lambda name=name, old=before[name]: ready_pids(mesh).get(name, old) != old, name, 60)
        steps["supervisorctl restart"] = len(callers.failed)
        before = until(lambda: len(found := ready_pids(mesh)) == 2 and found, "two workers", 60)
        supervisor(mesh, "recycle", "--all")
        assert not set(before.values()) & set(ready_pids(mesh).values())
        steps["recycle --all"] = len(callers.failed)
        supervisor(mesh, "scale", "workers", "3")
        assert 3 == len(ready_pids(mesh))
        supervisor(mesh, "scale", "workers", "1")
        until(lambda: 1 == len(ready_pids(mesh)), "one worker")
        supervisor(mesh, "scale", "workers", "2")
        steps["scale"] = len(callers.failed)
        epoch = status(mesh)["epoch"]
        assert "broker: started" in supervisorctl(mesh, "restart", "broker")
        until(lambda: len(ready_pids(mesh)) == 2 and status(mesh)["epoch"] != epoch, "the next broker", 60)
        steps["restart of the broker"] = len(callers.failed)
        time.sleep(0.5)
    return Outcome("rolling", len(callers.calls), callers.failed, {"kinds of failures after": steps})


def crashes(mesh: LiveMesh, metrics: Callable[[], str]) -> Outcome:
    """Have one engine fail to load until it is given up; the other serves on; mended, it comes back by itself."""
    with Callers(mesh) as callers, Mesh(mesh.endpoint) as client:
        said = until(lambda: _says_why(client), "NO_WORKER with the reason", 90)
        until(lambda: re.search(rf"moody +{GIVEN_UP} .*upside down", _shown(mesh)), "the same in mlx-mesh status", 90)
        until(lambda: 'mlx_mesh_processes_given_up{process="moody"} 1.0' in metrics(), "the same in the metrics")
        (mesh.dir / "broken").unlink()
        began = time.monotonic()
        until(lambda: ready_pids(mesh).get("moody"), "the mended worker", 90)
        back = time.monotonic() - began
        assert 7 == client.call("moody", 7, wait_for_ready=True)
    return Outcome("crashes", len(callers.calls), callers.failed, {"back_after_s": round(back, 1), "said": said})


def _shown(mesh: LiveMesh) -> str:
    command = [BIN / "mlx-mesh", "status"]
    return subprocess.run(command, env=mesh.env, capture_output=True, text=True, check=False).stdout


def _says_why(client: Mesh) -> str:
    try:
        client.call("moody", 1, timeout=2.0)
    except NoWorkerError as error:
        return error.message if re.search(rf"moody is {GIVEN_UP}.*upside down", error.message) else ""
    except MeshError:
        return ""
    return ""


def run(name: str, kills: int, stopped_s: float, ways: Sequence[str] = WAYS) -> Outcome:
    with live_mesh() as live:
        if name == "crashes":
            (live.dir / "broken").touch()
            return crash_loop(live)
        if name == "stuck":
            live.env |= {"MLX_MESH_BROKER_STALL_S": "3", "MLX_MESH_GUARD_MISSING_S": "2", "MLX_MESH_GUARD_KILL_S": "2"}
            with witnesses(live, ("[group:workers]", STICKY)) as mesh:
                return stuck(mesh, ways)
        with witnesses(live) as mesh:
            return {"deaths": lambda: deaths(mesh, kills), "frozen": lambda: frozen(mesh, stopped_s)}.get(
                name, lambda: rolling(mesh)
            )()


def crash_loop(live: LiveMesh) -> Outcome:
    """Run the scenario ``crashes`` on a mesh of its own; ``up`` would not have it, since a program does not start."""
    live.engine(WITNESS)
    live.env |= {"MLX_MESH_BROKER_METRICS_PORT": "0", "MLX_MESH_GUARD_RETRY_S": "2", "MLX_MESH_GUARD_RETRY_MAX_S": "4"}
    conf = changed_conf(
        live, ("--engine embed", "--engine mine:Witness"), added_program("moody", "mine:Moody", "startretries = 1")
    )
    subprocess.run([BIN / "supervisord", "-c", conf], env=live.env, check=True, timeout=60)
    try:
        until(lambda: len(ready_pids(live)) == 2, "two workers", 60)
        url = until(lambda: re.findall(r"metrics_on url=(\S+)", live.log("broker")), "an address of metrics")[0]
        return crashes(live, lambda: urlopen(url).read().decode())
    finally:
        supervisor(live, "down")


def main() -> int:
    names = ["deaths", "frozen", "stuck", "rolling", "crashes"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stopped", type=float, default=60.0, metavar="SECONDS")
    args = parser.parse_args()
    outcomes = []
    for name in args.names or names:
        outcomes.append(run(name, args.kills, args.stopped))
        print(outcomes[-1], flush=True)
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
