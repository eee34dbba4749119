"""The engine step by step: large requests in parts, cancel in the middle, broken vectors, memory given back."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_mesh_wire import EngineError
from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.engines.embed.engine import BUDGET_FIRST, BUDGET_MAX, BUDGET_MIN, BULK_AFTER_S, STEP_TARGET_S
from mlx_mesh_worker.engines.embed.request import TEXTS_MAX
from mlx_mesh_worker.engines.mlx_cache import TIGHT_MAX_BYTES, MlxCache
from tests.embed.driver import BULK, INTERACTIVE, STANDARD, Driver
from tests.embed.folder import ModelFolder

MANY = ["w1 w2", "w3"] * 20


def test_a_request_of_many_texts_takes_many_steps(small: Driver) -> None:
    job = small.job(MANY)
    (answer,) = small.run(job)
    assert [[job.id]] * 5 == small.steps
    assert isinstance(answer, dict)
    assert (40, 16) == answer["vectors"].shape
    assert np.allclose(small.vectors(["w1 w2"]), answer["vectors"][::2], atol=1e-5)
    assert np.allclose(small.vectors(["w3"]), answer["vectors"][1::2], atol=1e-5)


@pytest.mark.parametrize("lane", [INTERACTIVE, STANDARD])
def test_a_small_request_is_answered_in_the_next_step_though_a_large_one_is_under_way(small: Driver, lane: int) -> None:
    large, tiny = small.job(MANY), small.job(["w5"], lane=lane)
    small.admit(large)
    assert [] == small.turn()
    small.admit(tiny)
    assert [tiny.id] == small.turn()
    assert tiny.id in small.steps[-1]


def test_a_large_request_of_a_higher_lane_does_not_stop_a_small_one_of_a_lower(small: Driver) -> None:
    small.admit(small.job(MANY, lane=INTERACTIVE), small.job(MANY, lane=INTERACTIVE))
    tiny = small.job(["w5"], lane=BULK)
    small.admit(tiny)
    ended = [small.turn() for _ in range(5)]
    assert [tiny.id] in ended


@pytest.mark.slow
def test_the_largest_request_and_small_ones_beside_it_are_all_answered(small: Driver) -> None:
    large = small.job(["w1"] * TEXTS_MAX, lane=BULK)
    small.admit(large)
    for _ in range(20):
        tiny = small.job(["w2"], lane=INTERACTIVE)
        small.admit(tiny)
        assert tiny.id in [*small.turn(), *small.turn()]
    (answer,) = small.run(large)
    assert isinstance(answer, dict)
    assert TEXTS_MAX == len(answer["vectors"])


def test_a_job_that_must_be_alone_is_computed_in_steps_of_its_own(small: Driver) -> None:
    jobs = [small.job(["w1", "w2"]), small.job(MANY[:10], alone=True), small.job(["w3"])]
    answers = small.run(*jobs)
    assert [list, list, list] == [type(a["tokens"]) if isinstance(a, dict) else a for a in answers]
    assert all(step == [2] or 2 not in step for step in small.steps)
    assert 2 == small.steps.count([2])


def test_a_job_cancelled_in_the_middle_is_computed_no_further_and_the_other_goes_on(small: Driver) -> None:
    cancelled, other = small.job(MANY), small.job(MANY)
    small.admit(cancelled, other)
    small.turn()
    small.cancel(cancelled)
    small.steps.clear()
    (answer,) = small.run(other)
    assert isinstance(answer, dict)
    assert {other.id} == {job_id for step in small.steps for job_id in step}
    assert cancelled.id not in small.answers
    assert np.allclose(small.vectors(["w3"]), answer["vectors"][1::2], atol=1e-5)


def test_a_step_blames_only_the_jobs_that_it_computes(small: Driver) -> None:
    small.admit(small.job(MANY, lane=BULK), small.job(["w5"], lane=INTERACTIVE))
    small.turn()
    assert [[2]] == small.steps


@pytest.fixture
def spoiled(make: Callable[..., ModelFolder]) -> Driver:
    """A model that has no finite vector for one word, and the word is not one that it warms up with."""
    folder = make()
    folder.tensors["embeddings.word_embeddings.weight"][folder.ids("w7")[1]] = np.nan
    folder.save_tensors()
    return Driver(folder.engine(), smallest_batches=True)


def test_a_vector_that_is_not_finite_fails_its_job_with_the_index_and_nobody_else(spoiled: Driver) -> None:
    good = spoiled.vectors(["w1 w2", "w3"])
    jobs = [spoiled.job(["w1 w2", "w3"]), spoiled.job(["w4", "w7", "w5 w7"]), spoiled.job(["w3"])]
    spoiled.steps.clear()
    first, error, second = spoiled.run(*jobs)
    assert [[job.id for job in jobs]] == [sorted(step) for step in spoiled.steps]
    assert isinstance(error, EngineError)
    assert error.details["field"] == "texts"
    assert error.details["index"] in (1, 2)
    assert f"texts[{error.details['index']}] is not finite" in error.message
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert np.allclose(good, first["vectors"], atol=1e-5)
    assert np.allclose(good[1], second["vectors"], atol=1e-5)


def test_a_job_that_failed_in_one_step_is_not_computed_in_the_next(spoiled: Driver) -> None:
    error = spoiled.error(["w7 w1 w2 w3", *MANY])
    assert {"field": "texts", "index": 0} == error.details
    assert 1 == len(spoiled.steps)


def test_failures_of_texts_do_not_count_as_failures_of_the_engine(spoiled: Driver) -> None:
    for _ in range(7):
        spoiled.error(["w7"])
    assert [] == spoiled.reports
    assert (1, 16) == spoiled.vectors(["w1"]).shape


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["encoder.layer.1.output.dense.bias", "embeddings.LayerNorm.weight"])
def test_a_model_that_gives_no_finite_vector_at_all_does_not_get_ready(
    make: Callable[..., ModelFolder], name: str, value: float
) -> None:
    folder = make("spoiled")
    folder.tensors[name][3] = value
    folder.save_tensors()
    with pytest.raises(EngineLoadError, match="model spoiled gives vectors that are not finite"):
        folder.engine()


def test_trim_gives_memory_back_and_at_level_2_makes_batches_smaller_down_to_a_bound_until_level_0(
    make: Callable[..., ModelFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(make().engine())
    monkeypatch.setattr(driver.engine, "_adapt", lambda *_: None)  # a step that was held up makes the next ones smaller
    driver.embed(MANY)
    assert 1 == len(driver.steps)
    driver.engine.trim(1)
    assert 0 == driver.engine.memory()["mlx_cache"]
    assert {"mlx_active", "mlx_cache", "mlx_peak"} == set(driver.engine.memory())
    for _ in range(100):
        driver.engine.trim(2)
    driver.steps.clear()
    driver.embed(MANY)
    assert 5 == len(driver.steps)
    driver.engine.trim(0)
    driver.steps.clear()
    driver.embed(MANY)
    assert 1 == len(driver.steps)


def test_while_memory_is_short_mlx_keeps_little_of_what_is_freed() -> None:
    usual = mx.set_cache_limit(10**9)
    try:
        cache = MlxCache(mx)
        cache.trim(1)
        assert 10**9 == limit(), "level 1 clears only"
        cache.trim(2)
        cache.trim(2)
        assert TIGHT_MAX_BYTES == limit()
        kept = [mx.ones((256, 1024, 64)) for _ in range(4)]
        mx.eval(kept)
        del kept
        cache.trim(1)
        assert (TIGHT_MAX_BYTES, 0) == (limit(), mx.get_cache_memory())
        cache.trim(0)
        cache.trim(0)
        assert 10**9 == limit()
        mx.set_cache_limit(1000)
        cache.trim(2)
        assert 1000 == limit(), "what was less already stays"
        cache.trim(0)
        assert 1000 == limit()
    finally:
        mx.set_cache_limit(usual)


def limit() -> int:
    """Return what MLX may keep, which it tells of only when it is set."""
    now = mx.set_cache_limit(0)
    mx.set_cache_limit(now)
    return now


def test_the_budget_follows_the_measured_speed_within_its_bounds(make: Callable[..., ModelFolder]) -> None:
    engine = make().engine()
    assert BUDGET_FIRST == engine._budget
    engine._adapt(STEP_TARGET_S, 1000)
    assert 1000 == pytest.approx(engine._budget, abs=1)
    engine._adapt(STEP_TARGET_S * 2, 1000)
    assert 500 < engine._budget < 1000, "one slow step counts, but not for all"
    for seconds, bound in ((10.0, BUDGET_MIN), (1e-9, BUDGET_MAX)):
        for _ in range(100):
            engine._adapt(seconds, 512)
        assert bound == engine._budget


def test_batches_are_larger_while_nothing_but_bulk_work_comes(make: Callable[..., ModelFolder]) -> None:
    engine = make().engine()
    usual = BUDGET_FIRST
    assert 3 * usual == engine._allowed(engine._hurried + BULK_AFTER_S + 0.1)
    assert usual == engine._allowed(engine._hurried + BULK_AFTER_S)
