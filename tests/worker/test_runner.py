"""One engine driven step by step, with a clock that jumps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mlx_mesh_wire import InvalidRequestError, Tensor, messages, unpack_body
from mlx_mesh_worker.engine import BatchEngine, Chunk, Engine, EngineBrokenError, Failure, Result
from mlx_mesh_worker.engines.echo import EchoEngine
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Admit, Cancel, Piece, Returned, Trim, Withdraw
from tests.worker.bench import Bench, job, values


class Upper(BatchEngine):
    ops = ("upper",)

    def run(self, batch: list[Any]) -> Sequence[Any]:
        return [value.upper() if value else InvalidRequestError("empty") for value in batch]


def test_a_batch_engine_computes_what_waits_in_one_step_and_records_it() -> None:
    bench = Bench(Upper())
    outcomes = bench.turn(Admit(job("a", 1)), Admit(job("b", 2)))
    assert values(outcomes) == ["A", "B"]
    assert bench.recorded == [[1], (), [2], (), [1, 2], ()]
    assert bench.runner.progress == 1
    assert bench.turn() == []
    assert bench.runner.progress == 1
    assert not bench.runner.busy


def test_to_forget_the_last_job_is_progress_so_that_a_worker_called_stalled_is_seen_to_live() -> None:
    bench = Bench(Upper())
    bench.turn(Admit(stream := job("a", 1, window=1)))
    before = bench.runner.progress
    assert bench.turn(Cancel(stream)) == []
    assert before + 1 == bench.runner.progress


def test_one_bad_item_fails_alone() -> None:
    assert values(Bench(Upper()).turn(Admit(job("a", 1)), Admit(job("", 2)))) == ["A", "INVALID_REQUEST"]


def test_a_body_that_cannot_be_decoded_fails_its_job_alone() -> None:
    outcomes = Bench(Upper()).turn(Admit(job("", 1, frames=[b"\xc1"])), Admit(job("b", 2)))
    assert values(outcomes) == ["INVALID_REQUEST", "B"]


def test_a_job_that_must_be_alone_gets_a_step_of_its_own() -> None:
    bench = Bench(Upper())
    commands = [Admit(job("a", 1)), Admit(job("b", 2, flags=messages.Flag.ALONE)), Admit(job("c", 3))]
    assert values(bench.turn(*commands)) == ["B"]
    assert values(bench.turn()) == ["A", "C"]


def test_an_exception_in_a_step_fails_the_jobs_of_that_step_and_not_the_others() -> None:
    class Half(Upper):
        batch_max = 2

        def run(self, batch: list[Any]) -> Sequence[Any]:
            if "bad" in batch:
                raise RuntimeError("no such luck")
            return super().run(batch)

    bench = Bench(Half())
    first = bench.turn(*(Admit(job(v, i)) for i, v in enumerate(["a", "bad", "c"], 1)))
    assert values(first) == ["ENGINE_ERROR", "ENGINE_ERROR"]
    assert "RuntimeError: no such luck" in first[0].error.message
    assert "Traceback" in bench.reports[0]
    assert values(bench.turn()) == ["C"]


def test_an_engine_that_does_not_say_what_it_computes_is_blamed_for_all() -> None:
    class Silent(Engine):
        def admit(self, job: Job) -> None: ...
        def cancel(self, job: Job) -> None: ...
        def step(self) -> Sequence[Any]:
            raise ValueError("broken")

    bench = Bench(Silent())
    assert values(bench.turn(Admit(job(1, 1)), Admit(job(2, 2)))) == ["ENGINE_ERROR"] * 2


def test_failures_in_a_row_break_the_engine_and_a_good_step_starts_the_count_anew() -> None:
    class Fickle(Upper):
        def run(self, batch: list[Any]) -> Sequence[Any]:
            if batch == ["bad"]:
                raise RuntimeError("again")
            return super().run(batch)

    bench = Bench(Fickle(), failures_max=3)
    for value in ("bad", "bad", "good", "bad", "bad"):
        bench.turn(Admit(job(value)))
    with pytest.raises(EngineBrokenError, match="3 steps in a row"):
        bench.turn(Admit(job("bad")))


def test_a_wrong_number_of_results_breaks_the_engine() -> None:
    class Short(Upper):
        def run(self, batch: list[Any]) -> Sequence[Any]:
            return []

    with pytest.raises(EngineBrokenError, match="0 results for a batch of 1"):
        Bench(Short()).turn(Admit(job("a")))


def test_expired_jobs_are_not_computed() -> None:
    bench = Bench(Upper())
    bench.now = 1.0
    assert values(bench.turn(Admit(job("late", ms=500)))) == ["DEADLINE_EXCEEDED"]
    assert bench.recorded == []

    class Slow(Upper):
        batch_max = 1

    bench = Bench(Slow())
    assert values(bench.turn(Admit(job("a", 1)), Admit(job("b", 2, ms=1000)), Admit(job("c", 3)))) == ["A"]
    bench.now = 1.5
    assert values(bench.turn()) == ["DEADLINE_EXCEEDED", "C"]


def test_commands_come_before_the_step() -> None:
    bench = Bench(Upper())
    one, two, three = job("a", 1), job("b", 2), job("c", 3)
    outcomes = bench.turn(Admit(one), Admit(two), Admit(three), Cancel(one), Withdraw(two), Cancel(one), Trim(1))
    assert [Returned(two)] == outcomes[:1]
    assert values(outcomes) == ["C"]


def test_what_has_begun_is_not_given_back() -> None:
    bench = Bench(EchoEngine())
    stream = job([1, 2, 3], 1, window=8)
    assert [unpack_body(o.frames) for o in bench.turn(Admit(stream)) if isinstance(o, Piece)] == [1]
    outcomes = bench.turn(Withdraw(stream))
    assert not any(isinstance(o, Returned) for o in outcomes)


def test_echo_streams_items_and_ends_with_the_whole() -> None:
    bench = Bench(EchoEngine())
    stream = job([1, "b"], 1, window=8)
    outcomes = bench.turn(Admit(stream), Admit(job("x", 2)), Admit(job("single", 3, window=1)))
    while bench.runner.busy:
        outcomes += bench.turn()
    assert [unpack_body(o.frames) for o in outcomes if isinstance(o, Piece)] == [1, "single", "b"]
    assert values(outcomes) == ["x", "single", [1, "b"]]


def test_a_runner_whose_streams_all_wait_for_their_readers_rests() -> None:
    bench = Bench(EchoEngine())
    stream = job([1, 2], 1, window=1)
    bench.turn(Admit(stream))
    stream.backlog.append([b""])
    assert not bench.runner.busy
    assert bench.turn() == []
    stream.backlog.clear()
    assert bench.runner.busy


def test_results_that_cannot_be_encoded_and_errors_that_are_none_of_ours_are_engine_errors() -> None:
    class Odd(BatchEngine):
        def run(self, batch: list[Any]) -> Sequence[Any]:
            return [object() if value == "object" else value for value in batch]

        def admit(self, job: Job) -> None:
            super().admit(job)
            if job.value() == "refuse":
                raise KeyError("not this one")

        def step(self) -> Sequence[Any]:
            outputs = super().step()
            return [Failure(o.job, OSError("disk")) if o.value == "fail" else o for o in outputs]  # type: ignore[arg-type, union-attr]

    bench = Bench(Odd())
    outcomes = bench.turn(*(Admit(job(v, i)) for i, v in enumerate(["object", "fail", "fine"], 1)))
    assert values(outcomes) == ["ENGINE_ERROR", "ENGINE_ERROR", "fine"]
    assert "the result cannot be sent" in outcomes[0].error.message
    assert "OSError" in outcomes[1].error.message
    outcomes = Bench(Odd()).turn(Admit(job("refuse", 9)))
    assert "KeyError" in outcomes[0].error.message


def test_outputs_for_jobs_that_are_gone_are_dropped() -> None:
    class Late(Upper):
        def step(self) -> Sequence[Any]:
            return [*super().step(), Chunk(job("gone", 77), 1), Result(job("gone", 78), 1)]

    assert values(Bench(Late()).turn(Admit(job("a")))) == ["A"]


def test_tensors_travel_as_buffers() -> None:
    class Numbers(BatchEngine):
        def run(self, batch: list[Any]) -> Sequence[Any]:
            return [{"v": Tensor(b"\0" * 8, "float32", (2,))} for _ in batch]

    ((done),) = Bench(Numbers()).turn(Admit(job("a")))
    assert len(done.frames) == 2


def test_an_engine_that_names_jobs_it_does_not_have_harms_nobody_else() -> None:
    class Confused(Upper):
        def step(self) -> Sequence[Any]:
            self.mark([job("not mine", 99)])
            raise RuntimeError("confused")

    bench = Bench(Confused())
    assert [] == bench.turn(Admit(job("a")))
    assert bench.runner.busy


def test_what_is_admitted_is_recorded_and_timed_like_a_step() -> None:
    class Watched(Upper):
        def admit(self, job: Job) -> None:
            seen.append((list(bench.recorded), [each.id for each in bench.runner.running], bench.runner.step_since))
            super().admit(job)

    seen: list[Any] = []
    bench = Bench(Watched())
    bench.turn(Admit(job("a", 1)), Admit(job("", 2, frames=[b"\xc1"])))
    assert [([[1]], [1], 0.25), ([[1], (), [2]], [2], 0.25)] == seen
    assert bench.recorded[-1] == ()
    assert (bench.runner.running, bench.runner.step_since) == ([], None)


def test_an_engine_that_cannot_cancel_harms_nobody_else() -> None:
    class Stubborn(Upper):
        batch_max = 1

        def cancel(self, job: Job) -> None:
            super().cancel(job)
            raise KeyError(job.id)

    bench = Bench(Stubborn())
    one, two = job("a", 1), job("b", 2)
    assert values(bench.turn(Admit(one), Admit(two), Cancel(one))) == ["B"]
    assert "KeyError" in bench.reports[0]


def test_a_step_may_be_a_generator() -> None:
    class Lazy(Upper):
        def step(self) -> Any:
            yield from super().step()

    assert values(Bench(Lazy()).turn(Admit(job("a")))) == ["A"]


@pytest.mark.parametrize("error", [RuntimeError("no memory to give"), EngineBrokenError("beyond repair")])
def test_memory_is_given_back_without_jobs_too_and_an_engine_that_fails_at_it_goes_on(error: Exception) -> None:
    class Reluctant(Upper):
        def trim(self, level: int) -> None:
            timed.append((level, bench.runner.step_since))
            if level:
                raise error

    timed: list[Any] = []
    bench = Bench(Reluctant())
    assert [] == bench.turn(Trim(2))
    assert ([(2, 0.25)], 2, None) == (timed, bench.runner.trimmed, bench.runner.step_since)
    assert str(error) in bench.reports[0]
    assert ["A"] == values(bench.turn(Admit(job("a")), Trim(1), Trim(0)))
    assert ([2, 1, 0], 0) == ([level for level, _ in timed], bench.runner.trimmed)


def test_what_a_load_within_a_step_takes_is_timed_by_itself() -> None:
    class Lazy(Upper):
        def run(self, batch: list[Any]) -> Sequence[Any]:
            bench.now += 1
            with self.loading(), self.loading():
                during.append((bench.runner.loading_since, bench.runner.step_since))
                bench.now += 100
                if batch == ["missing"]:
                    raise OSError("no such model")
            during.append((bench.runner.loading_since, bench.runner.step_since))
            return super().run(batch)

    during: list[Any] = []
    bench = Bench(Lazy())
    assert ["A"] == values(bench.turn(Admit(job("a"))))
    assert [(1.25, 0.25), (None, 101.25)] == during
    assert ["ENGINE_ERROR"] == values(bench.turn(Admit(job("missing", ms=999_000))))
    assert (None, None) == (bench.runner.loading_since, bench.runner.step_since)


def test_an_engine_may_declare_a_load_before_there_is_a_runner() -> None:
    with Upper().loading():
        pass
