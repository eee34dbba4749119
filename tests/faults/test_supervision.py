"""Under supervisord, with callers throughout: short runs of what the scripts beside this file do for minutes."""

from __future__ import annotations

import pytest

from tests.faults.leak import MIB, leak
from tests.faults.supervision import deaths, frozen, ready_pids, rolling, run, status, witnesses
from tests.live import live_mesh, until


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_deaths_stops_restarts_and_other_numbers_of_workers_fail_no_call() -> None:
    with live_mesh() as live:
        # Who is held up by the machine for 3 s is neither missing nor in need of a second SIGKILL.
        live.env |= {"MLX_MESH_GUARD_MISSING_S": "4", "MLX_MESH_GUARD_KILL_S": "4", "MLX_MESH_BROKER_REJOIN_S": "30"}
        with witnesses(live) as mesh:
            killed = deaths(mesh, 4)
            assert killed.good, killed
            assert killed.figures["moved"] > 0
            until(lambda: len(ready_pids(mesh)) == 2, "two workers", 60)
            stopped = frozen(mesh, 60)
            assert stopped.good, stopped
            until(lambda: len(ready_pids(mesh)) == 2, "two workers", 60)
            rolled = rolling(mesh)
            assert rolled.good, rolled
            guard = until(lambda: status(mesh)["guard"], "word of the guard after the broker's restart")
            assert guard["counters"]["replaced missing"] == 1
            assert guard["counters"]["kills"] == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_engine_that_cannot_load_is_given_up_by_name_and_comes_back_when_it_can() -> None:
    outcome = run("crashes", 0, 0)
    assert outcome.good, outcome


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_step_that_holds_the_interpreter_is_told_by_its_stacks_and_replaced() -> None:
    outcome = run("stuck", 0, 0, ways=["hold the interpreter"])
    assert outcome.good, outcome


@pytest.mark.trial
@pytest.mark.timeout(240)
def test_workers_that_leak_are_recycled_below_the_ceiling_and_fail_no_call() -> None:
    with live_mesh() as live:
        live.env["MLX_MESH_GUARD_SAMPLE_S"] = "0.25"
        outcome = leak(live, 150, ceiling=300 * MIB, size=32 * 1024, recycles=1)
    assert not outcome.failed, outcome
    assert outcome.recycles.get("recycles memory", 0) + outcome.recycles.get("recycles stop", 0) >= 1, outcome
    assert outcome.highest_share < 1, outcome
