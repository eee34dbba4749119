"""Several models in one worker: loaded when they are asked for, let go when nobody does."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from benchmarks.llama import make_llama
from mlx_mesh_wire import EngineError, InvalidRequestError, MeshOutOfMemoryError, UnknownModelError
from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.engines.generate import GenerateEngine, models
from tests.generate.driver import Driver, make_engine, texts_of

pytestmark = pytest.mark.slow

PROMPT = [(7 * n) % 400 + 3 for n in range(30)]
ENDLESS = {"1": -100}
BODY = {"prompt": PROMPT, "max_tokens": 8, "logit_bias": ENDLESS}

Made = Callable[..., GenerateEngine]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models with other weights each, and one whose weights are damaged."""
    root = tmp_path_factory.mktemp("several")
    found = {"first": make_llama(root / "first", "tiny")}
    for number, name in enumerate(("second", "third", "broken")):
        found[name] = root / name
        shutil.copytree(found["first"], found[name])
        weights: Any = mx.load(str(found["first"] / "model.safetensors"))
        changed = {key: value * (1.5 + number) if value.ndim > 1 else value for key, value in weights.items()}
        mx.eval(changed)
        mx.save_safetensors(str(found[name] / "model.safetensors"), changed)
    whole = (found["broken"] / "model.safetensors").read_bytes()
    (found["broken"] / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return found


@pytest.fixture
def made(folders: dict[str, Path]) -> Made:
    def make(*names: str, **settings: Any) -> GenerateEngine:
        return make_engine(", ".join(str(folders[name]) for name in names), **settings)

    return make


def test_models_are_loaded_when_they_are_asked_for_and_each_gives_its_own_tokens(made: Made) -> None:
    expected = {name: Driver(made(name)).all(BODY)[0] for name in ("first", "second", "third")}
    assert 3 == len(set(map(tuple, expected.values())))
    engine = made("first", "second", "third")
    assert ("first", "second", "third") == tuple(engine.models)
    assert ["first"] == list(engine.warm_models())
    driver = Driver(engine)
    names = ("", "third", "first", "third", "second", "second")
    jobs = [driver.submit(BODY, model=name) for name in names]
    driver.run(*jobs)
    assert [expected[name or "first"] for name in names] == [driver.tokens(job) for job in jobs]
    assert {"first", "second", "third"} == set(engine.warm_models())
    assert [name or "first" for name in names] == [driver.ends[job]["model"] for job in jobs]
    assert 0 == engine.memory()["kv"]
    assert engine.memory()["prefix_cache"] == sum(texts_of(engine, name).prefixes.nbytes for name in expected)


def test_a_model_that_is_not_on_the_list_is_unknown(made: Made) -> None:
    driver = Driver(made("first", "second"))
    error = driver.error(driver.submit(BODY, model="third"))
    assert isinstance(error, UnknownModelError)
    assert "first, second" in error.message


def test_a_list_that_names_a_model_twice_or_one_that_is_not_there_is_refused(
    made: Made, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(EngineLoadError, match="--model names a model twice: first, second, first"):
        made("first", "second", "first")
    with pytest.raises(EngineLoadError, match="nowhere"):
        GenerateEngine(f"{folders['first']},{tmp_path / 'nowhere'}").load()


def test_a_model_that_cannot_be_loaded_fails_those_who_asked_for_it_only(made: Made) -> None:
    engine = made("first", "broken", "second")
    driver = Driver(engine)
    running = driver.submit({**BODY, "max_tokens": 60})
    while not driver.chunks[running]:
        driver.turn()
    bad = [driver.submit(BODY, model="broken") for _ in range(2)]
    good = driver.submit(BODY, model="second")
    for job in bad:
        error = driver.error(job)
        assert isinstance(error, EngineError)
        assert "broken: mlx-lm cannot load it" in error.message
    driver.run(running, good)
    assert (60, 8) == (len(driver.tokens(running)), len(driver.tokens(good)))
    assert ["first", "second"] == list(engine.warm_models())
    assert [] == driver.reports


def test_of_those_that_wait_for_a_model_a_wrong_one_fails_alone_and_those_that_left_are_not_begun(made: Made) -> None:
    engine = made("first", "second")
    driver = Driver(engine)
    bodies: list[Any] = [BODY, {**BODY, "max_tokens": 0}, "no map", BODY, BODY]
    jobs = [driver.submit(body, model="second") for body in bodies]
    late = driver.submit(BODY, model="second", remaining_ms=0)
    driver.cancel(jobs[3])
    driver.run(jobs[0], jobs[1], jobs[2], jobs[4], late)
    assert isinstance(driver.ends[jobs[1]], InvalidRequestError)
    assert isinstance(driver.ends[jobs[2]], InvalidRequestError)
    assert "DEADLINE_EXCEEDED" == driver.ends[late].code
    assert jobs[3] not in driver.ends
    assert driver.tokens(jobs[0]) == driver.tokens(jobs[4])
    assert [] == engine._cold
    assert 0 == len(texts_of(engine, "second"))


def test_a_model_that_nobody_used_for_long_is_let_go_and_comes_again(made: Made) -> None:
    engine = made("first", "second", keep_alive_s=60.0)
    driver = Driver(engine)
    began = time.monotonic()
    (expected,) = driver.all(BODY, model="second")
    counted = engine.counters()
    assert 8 == counted["generated_tokens"]
    now = time.monotonic()
    served = engine._models.get("second")
    assert served is not None
    assert began <= served.used <= now
    assert served.used + 60.0 - now == pytest.approx(engine.idle(now))
    del served
    before = mx.get_active_memory()
    assert ["first", "second"] == list(engine.warm_models())
    assert engine.idle(now + 61) is None
    assert ["first"] == list(engine.warm_models())
    gc.collect()
    assert mx.get_active_memory() < before
    assert counted == engine.counters()
    assert [expected] == driver.all(BODY, model="second")
    assert all(engine.counters()[name] >= count for name, count in counted.items())
    assert 16 == engine.counters()["generated_tokens"]


def test_a_model_in_use_is_kept_however_long_ago_it_was_loaded(made: Made) -> None:
    engine = made("first", "second", keep_alive_s=60.0)
    driver = Driver(engine)
    driver.all(BODY, model="second")
    served = engine._models.get("second")
    assert served is not None
    served.used -= 1000.0
    running = driver.submit({**BODY, "max_tokens": 40}, model="second")
    while not driver.chunks[running]:
        driver.turn()
    assert engine.idle(time.monotonic() + 100) is not None
    driver.run(running)
    assert engine.idle(time.monotonic()) is not None
    assert ["first", "second"] == list(engine.warm_models())


def test_a_busy_worker_lets_go_of_a_model_too(made: Made) -> None:
    engine = made("first", "second", keep_alive_s=60.0)
    driver = Driver(engine)
    driver.all(BODY, model="second")
    served = engine._models.get("second")
    assert served is not None
    served.used -= 1000.0
    engine._look_again = 0.0
    driver.run(driver.submit(BODY))
    assert ["first"] == list(engine.warm_models())


def test_room_for_a_model_is_made_by_letting_go_of_an_idle_one_or_it_is_refused(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = made("first", "second", "third")
    driver = Driver(engine)
    driver.all(BODY, model="second")
    monkeypatch.setattr(models, "_free", lambda: 0 if "second" in engine.warm_models() else 2**40)
    driver.all(BODY, model="third")
    assert ["first", "third"] == list(engine.warm_models())
    running = driver.submit({**BODY, "max_tokens": 60}, model="third")
    while not driver.chunks[running]:
        driver.turn()
    monkeypatch.setattr(models, "_free", lambda: 5)
    error = driver.error(driver.submit(BODY, model="second"))
    assert isinstance(error, MeshOutOfMemoryError)
    assert {"needed", "free"} == set(error.details)
    assert 5 == error.details["free"] < error.details["needed"]
    driver.run(running)
    assert 60 == len(driver.tokens(running))


def test_models_share_the_memory_for_caches(made: Made) -> None:
    engine = made("first", "second", kv_max_bytes=2**20)
    driver = Driver(engine)
    driver.all({**BODY, "max_tokens": 400}, model="second")
    held = texts_of(engine, "second").prefixes.nbytes
    assert held > 0
    assert 2**20 - held == texts_of(engine)._kv_limit()


def test_trim_forgets_what_was_read_of_all_models(made: Made) -> None:
    engine = made("first", "second")
    driver = Driver(engine)
    for model in ("first", "second"):
        driver.all(BODY, model=model)
        assert 1 == len(texts_of(engine, model).prefixes)
    engine.trim(1)
    assert 1 == len(texts_of(engine).prefixes)
    engine.trim(2)
    assert 0 == engine.memory()["prefix_cache"]


def test_a_model_that_is_loaded_while_memory_is_short_heeds_it(made: Made) -> None:
    engine = made("first", "second")
    driver = Driver(engine)
    for level in (2, 1):  # what level 2 shrank stays until level 0
        engine.trim(level)
    driver.all(BODY, model="second")
    assert 0 == engine.memory()["prefix_cache"]
    engine.trim(0)
    for model in ("first", "second"):
        driver.all(BODY, model=model)
        assert 1 == len(texts_of(engine, model).prefixes)


def test_loading_a_model_is_declared_and_serving_from_it_is_not(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = made("first", "second")
    driver = Driver(engine)
    runner, load, step = driver.runner, engine._models.load, engine.step
    seen: list[tuple[str, bool]] = []

    def loading(name: str) -> Any:
        seen.append(("load", runner.loading_since is not None))
        return load(name)

    def stepping() -> Any:
        outputs = step()
        seen.append(("step", runner.loading_since is not None))
        return outputs

    monkeypatch.setattr(engine._models, "load", loading)
    monkeypatch.setattr(engine, "step", stepping)
    driver.all({**BODY, "max_tokens": 2}, model="second")
    assert ("load", True) == seen[0]
    assert {("step", False)} == set(seen[1:])
