"""One truth about workers, and what is told of memory: pure functions of what broker, supervisord and guard say."""

from __future__ import annotations

import pytest

from mlx_mesh.cli.memory import footprints, memory
from mlx_mesh.cli.merged import by_number, merge
from mlx_mesh.cli.room import refusal
from mlx_mesh_wire.guard_report import Footprint, GuardReport, Limit, Recycle, Troubled
from mlx_mesh_wire.worker_command import worker_engine

HERE = "here"
MIB = 2**20


def worker(name: str, pid: int, state: str = "ready", *, host: str = HERE, remote: bool = False) -> dict:
    return {"name": name, "pid": pid, "state": state, "host": host, "remote": remote}


def process(name: str, pid: int, statename: str = "RUNNING", *, is_worker: bool = True, start: int = 1) -> dict:
    return {
        "name": name,
        "group": "workers",
        "pid": pid,
        "statename": statename,
        "worker": is_worker,
        "start": start,
        "guard": name == "guard",
    }


@pytest.mark.parametrize(
    ("workers", "processes", "alive", "rows"),
    [
        ([], [], (), []),
        ([worker("w", 1)], [process("w", 1)], {1}, [("w", 1, "ready")]),
        ([worker("w", 1, "stalled")], [process("w", 1, "STARTING")], {1}, [("w", 1, "stalled")]),
        # supervisord's word is the last about a process that is not there to stay.
        ([worker("w", 1, "draining")], [process("w", 1, "STOPPING")], {1}, [("w", 1, "stopping")]),
        ([], [process("w", 0, "STOPPED")], (), [("w", 0, "stopped")]),
        ([], [process("w", 0, "FATAL")], (), [("w", 0, "fatal")]),
        ([], [process("w", 0, "BACKOFF")], (), [("w", 0, "backoff")]),
        ([], [process("w", 7)], {7}, [("w", 7, "starting")]),
        # The broker has not noticed yet that the predecessor is gone.
        ([worker("w", 1)], [process("w", 2)], {2}, [("w", 2, "starting"), ("w", 1, "gone")]),
        ([worker("w", 1)], [process("w", 0, "EXITED")], (), [("w", 0, "exited"), ("w", 1, "gone")]),
        # A name says nothing: this one was started by hand.
        ([worker("w", 1)], [process("w", 2)], {1, 2}, [("w", 2, "starting"), ("w", 1, "ready")]),
        # Nor does a pid of another machine.
        ([worker("w", 1, host="there")], [process("w", 1)], {1}, [("w", 1, "starting"), ("w", 1, "ready")]),
        ([worker("w", 1, remote=True)], [process("w", 1)], {1}, [("w", 1, "starting"), ("w", 1, "ready")]),
        # Programs that are off, and processes that are no workers, have no row.
        ([], [process("w", 0, "STOPPED", start=0), process("broker", 3, is_worker=False)], {3}, []),
        ([worker("w-10", 1), worker("w-9", 2)], [], {1, 2}, [("w-9", 2, "ready"), ("w-10", 1, "ready")]),
    ],
)
def test_workers_and_processes_are_joined_by_pid(workers: list, processes: list, alive: set, rows: list):
    merged = merge(workers, processes, host=HERE, alive=lambda pid: pid in alive)
    assert rows == [(row["name"], row["pid"], row["state"]) for row in merged]
    assert all("slots" in row for row in merged if row["pid"] not in {w["pid"] for w in workers})


@pytest.mark.parametrize(
    ("command", "engine"),
    [
        ("mlx-mesh-worker --engine echo --name w", "echo"),
        ("/opt/venv/bin/mlx-mesh-worker --engine=pkg.mod:Class", "pkg.mod:Class"),
        ("nice -n 5 env A=b mlx-mesh-worker --name w", ""),
        ("python -m mlx_mesh_worker.main --engine embed", "embed"),
        ("sh -c 'exec mlx-mesh-worker --engine echo'", "echo"),
        ("mlx-mesh-worker --engine", ""),
        ("mlx-mesh-broker", None),
        ("echo mlx-mesh-workers 'open", None),
        ("", None),
    ],
)
def test_a_worker_is_known_by_its_command(command: str, engine: str | None):
    assert engine == worker_engine(command)


def report(**changes: object) -> dict:
    calm = GuardReport(9, 60.0, 0.5, "calm", "", 0.0, [Limit("ram", MIB, 2 * MIB)], {}, [], [], [], {}, {}, [])
    return calm._replace(**changes).as_map()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "memory 50%, calm"),
        ({"rung": "pause", "paused": "bulk", "paused_s": 12.0}, "memory 50%, pause, bulk paused for 12 s"),
        ({"paused": "standard", "paused_s": 5.0}, "memory 50%, calm, standard and bulk paused for 5.0 s"),
        ({"signals": {"psi_some": 0.4, "level": 1.0, "swap_used": 0.0}}, "memory 50%, calm"),
        (
            {"signals": {"psi_some": 14.5, "level": 2.0, "swap_used": 5.0 * MIB}},
            "memory 50%, calm, level 2, psi_some 14.5, swap_used 5.0 MiB",
        ),
        ({"errors": {"nvidia": 3, "psi": 0}}, "memory 50%, calm, nvidia could not be read 3 times"),
        ({"errors": {"broker": 1}}, "memory 50%, calm, broker could not be read 1 time"),
        ({"limits": [Limit("ram", 1, 4), Limit("cgroup", 3, 4)]}, "cgroup   3 B  4 B    75%"),
        ({"recycles": [Recycle("w-0", "drain", "leaks", 4.0)]}, "w-0      drain  4.0 s  leaks"),
        (
            {"troubled": [Troubled("w-0", "g", "FATAL", "no model", 90.0, 40.0)]},
            "w-0       FATAL  1 min 30 s  in 40 s  no model",
        ),
        (
            {"troubled": [Troubled("w-0", "g", "FATAL", "no model", 9.0, -1.0)]},
            "w-0       FATAL  9.0 s    not  no model",
        ),
        ({"recent": [f"{i} s ago: did it" for i in range(9)]}, "guard: 8 s ago: did it"),
    ],
)
def test_what_the_guard_reports_is_told(changes: dict, line: str):
    shown = memory({"guard": report(**changes), "processes": []}).splitlines()
    assert line in shown
    assert "guard: 0 s ago: did it" not in shown


def test_a_guard_that_does_not_report_is_worth_a_line_only_if_there_should_be_one():
    def shown(statename: str, uptime_s: float, guard: dict | None = None) -> str:
        guards = [process("guard", 0, statename, is_worker=False)]
        return memory({"guard": guard, "processes": guards, "uptime_s": uptime_s}).partition("\n")[0]

    assert memory({"guard": None, "processes": [process("w", 1)], "uptime_s": 1.0}) == ""
    assert shown("FATAL", 1.0) == "memory is not watched: guard is FATAL and does not report; see its log"
    assert shown("RUNNING", 60.0) == "memory is not watched: guard is RUNNING and does not report; see its log"
    assert shown("RUNNING", 1.0) == "memory is not watched yet: guard is RUNNING, the broker has just started"
    assert shown("STOPPED", 60.0, report()) == "memory is not watched: guard is STOPPED; what it said last:"
    assert shown("RUNNING", 60.0, report()) == "memory 50%, calm"


def test_footprints_are_shown_where_they_tell_more():
    workers = [{"name": "w-0", "memory": {"rss": 100 * MIB}}, {"name": "far", "memory": {}}]

    def shown(size: int, slope: float, *, leaking: bool) -> dict:
        found = report(workers=[Footprint("w-0", size * MIB, 90 * MIB, slope, leaking)])
        return footprints({"workers": workers, "guard": found})

    assert shown(104, 0.0, leaking=False) == {}
    assert shown(300, 0.0, leaking=False) == {"FOOT": ["300 MiB", "-"]}
    assert shown(104, 2.0 * MIB, leaking=True) == {"FOOT": ["104 MiB", "-"], "GROWTH": ["2.0 MiB/s leak", "-"]}
    assert footprints({"workers": workers, "guard": None}) == {}


@pytest.mark.parametrize(
    ("used", "added", "room"),
    [(0, 8, None), (0, 9, 8), (425, 4, None), (425, 5, 4), (850, 1, 0), (2000, 1, 0)],
)
def test_there_is_room_up_to_85_percent_of_the_tightest_limit(used: int, added: int, room: int | None):
    limits = [{"source": "ram", "used": 0, "limit": 10**6}, {"source": "cgroup", "used": used, "limit": 1000}]
    refused = refusal(limits, 100, added)
    assert room == (None if refused is None else refused.room)
    assert refused is None or "cgroup" in refused.text
    assert refusal([], 100, added) is None


def test_names_are_sorted_by_the_numbers_in_them_whatever_else_is():
    assert ["embed-9", "embed-10", "embed²"] == sorted(["embed²", "embed-10", "embed-9"], key=by_number)
