"""The moments at which a runner ends a job or an engine, and what it is left with afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mlx_mesh_worker.engine import BatchEngine, Engine, EngineBrokenError, Result
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Admit
from tests.worker.bench import Bench, job, values


class Upper(BatchEngine):
    ops = ("upper",)
    batch_max = 1

    def run(self, batch: list[Any]) -> Sequence[Any]:
        return [value.upper() for value in batch]


class Quiet(Engine):
    """Computes when it is told to, and does not say which jobs a step is for."""

    def __init__(self) -> None:
        super().__init__("")
        self.jobs: list[Job] = []
        self.outputs: list[Any] = []
        self.error: Exception | None = None
        self.cancelled: list[Job] = []

    def admit(self, job: Job) -> None:
        self.jobs.append(job)

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)

    def step(self) -> Sequence[Any]:
        if self.error is not None:
            raise self.error
        outputs, self.outputs = self.outputs, []
        return outputs


def test_a_job_expires_at_its_deadline_before_and_after_it_was_admitted() -> None:
    bench = Bench(Upper())
    bench.now = 0.5
    assert ["DEADLINE_EXCEEDED"] == values(bench.turn(Admit(job("a", ms=500))))
    bench = Bench(Quiet())
    assert [] == bench.turn(Admit(job("a", 1, ms=500)), Admit(job("b", 2, ms=1000)))
    bench.now = 0.4375
    assert [] == bench.turn()
    bench.now = 0.5
    assert ["DEADLINE_EXCEEDED"] == values(bench.turn())
    bench.now = 1.0
    assert ["DEADLINE_EXCEEDED"] == values(bench.turn())
    assert not bench.runner.busy


def test_five_failures_in_a_row_break_an_engine() -> None:
    engine = Quiet()
    engine.error = RuntimeError("again")
    bench = Bench(engine)
    for _ in range(4):
        bench.turn(Admit(job("a")))
    with pytest.raises(EngineBrokenError, match="5 steps in a row"):
        bench.turn(Admit(job("a")))


def test_blame_for_one_step_is_none_for_the_next() -> None:
    engine = Quiet()
    bench = Bench(engine)
    jobs = [job("a", 1), job("b", 2)]
    bench.turn(*map(Admit, jobs))
    engine.mark(jobs[:1])
    engine.outputs = []
    bench.turn()
    engine.error = RuntimeError("of whom?")
    assert ["ENGINE_ERROR"] * 2 == values(bench.turn())


def test_a_job_that_has_its_result_is_done_with() -> None:
    engine = Quiet()
    bench = Bench(engine)
    made = job("a")
    bench.turn(Admit(made))
    engine.outputs = [Result(made, "A")]
    assert ["A"] == values(bench.turn())
    assert not bench.runner.busy
    engine.outputs = [Result(made, "again")]
    assert [] == bench.turn()
    assert [] == engine.cancelled


def test_a_job_whose_result_cannot_be_sent_is_done_with_too() -> None:
    engine = Quiet()
    bench = Bench(engine)
    made = job("a")
    bench.turn(Admit(made))
    engine.outputs = [Result(made, object())]
    (outcome,) = bench.turn()
    assert outcome.error is not None
    assert not bench.runner.busy


def test_a_job_has_started_when_it_was_computed_first_or_at_its_end_if_nobody_said() -> None:
    engine = Quiet()
    bench = Bench(engine)
    told, untold = job("a", 1), job("b", 2)
    bench.turn(Admit(told), Admit(untold))
    bench.now = 1.0
    engine.mark([told])
    bench.now = 2.0
    engine.mark([told])
    bench.now = 3.0
    engine.outputs = [Result(told, "A"), Result(untold, "B")]
    bench.turn()
    assert (1.0, 3.0) == (told.started, untold.started)


def test_what_comes_of_no_job_is_an_error_of_the_step() -> None:
    engine = Quiet()
    bench = Bench(engine)
    bench.turn(Admit(job("a")))
    engine.outputs = [None]
    (outcome,) = bench.turn()
    assert "NoneType" in outcome.error.message


def test_an_endless_error_text_is_cut() -> None:
    engine = Quiet()
    engine.error = RuntimeError("x" * 5000)
    (outcome,) = Bench(engine).turn(Admit(job("a")))
    assert outcome.error.message.startswith("RuntimeError: xxx")
    assert len(outcome.error.message) <= 900


def test_a_load_within_a_load_is_one_load_and_outside_of_steps_nothing_is_timed() -> None:
    bench = Bench(Quiet())
    with bench.engine.loading():
        assert 0.25 == bench.runner.loading_since
        bench.now = 1.0
        with bench.engine.loading():
            assert 0.25 == bench.runner.loading_since
        assert 0.25 == bench.runner.loading_since
    assert bench.runner.loading_since is None
    assert bench.runner.step_since is None
