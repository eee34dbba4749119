"""A worker that is told to leave before its job is done costs the caller no error."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from mlx_mesh import Mesh, MeshError, WorkerLostError
from tests.live import PATIENCE_S, live_mesh, until

SLOW_THEN_QUICK = """
import os, time
from pathlib import Path
from mlx_mesh_worker.engine import BatchEngine

class Slow(BatchEngine):
    ops = ("slow",)
    def run(self, batch):
        begun = Path("begun")
        if not begun.exists():
            begun.touch()
            time.sleep(60)
        return [os.getpid() for _ in batch]
"""


@pytest.mark.slow
@pytest.mark.parametrize("at_most_once", [False, True])
def test_a_job_that_outlasts_the_drain_time_is_run_elsewhere_unless_it_must_not_be(at_most_once: bool) -> None:
    answers: list[Any] = []
    with live_mesh() as live:
        live.engine(SLOW_THEN_QUICK)
        live.broker()
        first = live.worker("mine:Slow", "first", "--drain-s", "0.2")
        with Mesh(live.endpoint) as mesh:
            mesh.ready(["slow"])

            def ready() -> list[str]:
                workers = mesh.status(timeout=PATIENCE_S)["workers"]
                return [worker["name"] for worker in workers if worker["state"] == "ready"]

            def call() -> None:
                try:
                    answers.append(mesh.call("slow", 1, timeout=90.0, at_most_once=at_most_once))
                except MeshError as error:
                    answers.append(error)

            caller = threading.Thread(target=call)
            caller.start()
            until((live.dir / "begun").exists, "the job to begin")
            second = live.worker("mine:Slow", "second")
            until(lambda: "second" in ready(), "the second worker")
            first.send_signal(signal.SIGTERM)
            caller.join()
        assert first.wait(PATIENCE_S) == 0
    if at_most_once:
        assert isinstance(answers[0], WorkerLostError)
    else:
        assert answers == [second.pid]
