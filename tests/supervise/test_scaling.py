"""mlx-mesh scale and recycle on a running mesh: no call fails, and memory is asked before it is taken."""

from __future__ import annotations

import json
import threading

import pytest

from mlx_mesh import Mesh
from mlx_mesh_wire.control import command
from mlx_mesh_wire.guard_report import Footprint, GuardReport, Limit
from tests.cli.cli_shell import PATIENCE_S, wait_for
from tests.supervise.conftest import WORKERS, Console

MIB = 2**20


class Callers:
    """Threads that call ``echo`` all the time."""

    def __init__(self, console: Console, number: int = 4) -> None:
        self.done = 0
        self.failed: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(console,)) for _ in range(number)]

    def _call(self, console: Console) -> None:
        with Mesh(f"ipc://{console.run_dir}/frontend.sock") as mesh:
            while not self._stop.wait(0.01):
                try:
                    assert mesh.call("echo", self.done, timeout=PATIENCE_S) is not None
                    self.done += 1
                except Exception as error:  # noqa: BLE001  whatever it is, a call failed
                    self.failed.append(error)
                    return

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def pids(console: Console) -> dict[str, int]:
    return {p["name"]: p["pid"] for p in console.supervisor.look() if p["group"] == "workers" and p["pid"]}


@pytest.mark.timeout(300)
def test_scaling_up_and_down_and_recycling_all_fails_no_call(console: Console):
    with Callers(console) as callers:
        assert "workers has 4 workers: embed-0, embed-1, embed-2, embed-3" in console.good("scale", "workers", 4)
        before = pids(console)
        done = console.good("recycle", *before)
        assert "4 workers recycled: embed-0, embed-1, embed-2, embed-3" in done
        after = pids(console)
        assert (before.keys(), set()) == (after.keys(), set(before.values()) & set(after.values()))
        console.good("recycle", "workers:embed-0", "--hurry")
        assert "workers has 2 workers: embed-0, embed-1" in console.good("scale", "workers", 2)
        counted = callers.done
        wait_for(lambda: callers.done > counted or callers.failed, "calls to go on")
    assert (callers.failed, callers.done > 10) == ([], True)
    assert set(pids(console)) == {"embed-0", "embed-1"}


@pytest.mark.timeout(240)
def test_all_is_every_worker_and_the_last_of_an_op_is_told(console: Console):
    before = {p["name"]: p["pid"] for p in console.supervisor.look() if p["worker"] and p["pid"]}
    done = console.mesh("recycle", "--all")
    assert done.returncode == 0, done.stderr.decode()
    assert "gated-0: no other worker is ready for gated; requests wait until it is back" in done.stderr.decode()
    after = {p["name"]: p["pid"] for p in console.supervisor.look() if p["worker"] and p["pid"]}
    assert set(before) == {"embed-0", "embed-1", "gated-0", "plain"} == set(after)
    assert not set(before.values()) & set(after.values())


def test_workers_that_are_stopped_count_as_none_and_are_started_first(console: Console):
    console.ctl("stop", "workers:embed-0")
    assert "workers has 2 workers: embed-0, embed-1" in console.good("scale", "workers", 2)
    assert set(pids(console)) == {"embed-0", "embed-1"}


def test_a_worker_that_cannot_be_started_is_told_of_with_its_log_and_taken_out_again(console: Console):
    errors = console.bad("scale", "mixed:gated", 2)
    assert "gated-1 | " in errors
    assert "Gated1 has no such class" in errors
    assert f"gated-1 could not be started; its log is {console.run_dir}/gated-1.log" in errors
    assert set(console.states("mixed")) == {"gated-0", "plain"}


class Guard:
    """Tells the broker a report again and again, as the guard does: it holds for ten seconds."""

    def __init__(self, report: dict) -> None:
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def _tell(self) -> None:
        command("guard", {"report": self._report, "pause": ""}, timeout=PATIENCE_S)

    def _go_on(self) -> None:
        while not self._stop.wait(0.5):
            self._tell()

    def __enter__(self) -> Guard:
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)


def report(used: int, limit: int) -> dict:
    """Return what a guard says that has measured embed-0 and embed-1 at 90 and 100 MiB."""
    workers = [Footprint(f"embed-{i}", (90 + 10 * i) * MIB, 90 * MIB, 0.0, False) for i in range(2)]
    limits = [Limit("ram", 1, 2**40), Limit("configured", used, limit)]
    return GuardReport(1, 1.0, used / limit, "calm", "", 0.0, limits, {}, workers, [], [], {}, {}, []).as_map()


def test_scaling_stays_within_memory(console: Console, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLX_MESH_RUN_DIR", str(console.run_dir))
    with Guard(report(190 * MIB, 400 * MIB)):  # 85 % of it: 340 MiB
        assert console.bad("scale", "workers", 4) == (
            "mlx-mesh: 2 more workers of 100 MiB would take configured from 190 MiB to 390 MiB of 400 MiB, above 85%; "
            "1 more would fit; use mlx-mesh scale workers 3, or --force\n"
        )
    with Guard(report(300 * MIB, 400 * MIB)):
        assert "no more fit; use --force" in console.bad("scale", "workers", 3)
        shown = console.good("status")
        assert "memory 75%, calm" in shown
        assert "configured  300 MiB  400 MiB    75%" in shown
        assert json.loads(console.good("status", "--json"))["guard"]["limits"][1]["limit"] == 400 * MIB
    assert "workers has 3 workers" in console.good("scale", "workers", 3, "--force")
    console.good("scale", "workers", 2)


def test_without_a_guard_it_is_said_that_memory_was_not_checked(console: Console, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLX_MESH_RUN_DIR", str(console.run_dir))
    silent = GuardReport(1, 1.0, 0.1, "calm", "", 0.0, [], {}, [], [], [], {}, {}, []).as_map()
    with Guard(silent):
        done = console.mesh("scale", "workers", 3)
    assert "memory was not checked: the guard has measured no worker of workers yet" in done.stderr.decode()
    console.good("scale", "workers", 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["scale", "nothing", 2],
            "there is no group 'nothing'; groups of workers are: generate, mixed:gated, mixed:plain",
        ),
        (["scale", "mixed", 2], "mixed has several programs; name one of: mixed:gated, mixed:plain"),
        (["scale", "broker", 2], "broker is no group of workers; those are: generate"),
        (["scale", "mixed:plain", 2], "bear no number; write process_name = plain-%(process_num)d"),
        (["recycle", "nobody"], "there is no worker 'nobody'; workers are: embed-0, embed-1, gated-0, plain"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(console: Console, arguments: list[object], told: str):
    errors = console.bad(*arguments)
    assert told in errors
    assert errors.startswith("mlx-mesh: ") or "memory was not checked" in errors


def test_a_worker_by_hand_is_shown_and_not_recycled(console: Console):
    process = console.start("mlx-mesh-worker", "--engine", "echo", "--name", "by-hand")
    try:
        console.wait_ready(*WORKERS, "by-hand")
        assert "by-hand was started by hand, not under the supervisord of" in console.bad("recycle", "by-hand")
        (row,) = [w for w in json.loads(console.good("status", "--json"))["workers"] if w["name"] == "by-hand"]
        assert (row["state"], row["process"]) == ("ready", None)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_status_and_supervisorctl_agree_about_what_does_not_run(console: Console):
    console.ctl("stop", "workers:embed-1")
    console.wait_ready(*(name for name in WORKERS if name != "embed-1"))  # The broker has heard of it.
    rows = {w["name"]: w for w in json.loads(console.good("status", "--json"))["workers"]}
    assert rows["embed-1"]["state"] == "stopped"
    assert rows["embed-1"]["process"] == {"name": "workers:embed-1", "statename": "STOPPED"}
    assert rows["embed-0"]["state"] == "ready"
    assert "workers:embed-1 is STOPPED" not in console.ctl("status")
    assert "embed-1 is STOPPED; start it with: supervisorctl start workers:embed-1" in console.bad("recycle", "embed-1")
    console.ctl("start", "workers:embed-1")
