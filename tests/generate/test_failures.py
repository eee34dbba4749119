"""What goes wrong in a step costs those it went wrong for, and nobody else a row, a token or an end."""

from __future__ import annotations

import time
from typing import Any

import mlx.core as mx
import pytest

from mlx_mesh_wire import EngineError, MeshOutOfMemoryError
from mlx_mesh_worker.engines.generate import GenerateEngine
from tests.generate.driver import Driver, loaded_by, texts_of, tokens_of

pytestmark = pytest.mark.slow

ENDLESS = {"1": -100}
LONG = list(range(5, 60))


def body(prompt: list[int], count: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    how = {"temperature": 1.0, "seed": seed} if seed else {}
    return {"prompt": prompt, "max_tokens": count, "logit_bias": ENDLESS, **how, **more}


def begun(driver: Driver, *jobs: Any) -> None:
    """Turn until each has a token."""
    while not all(driver.chunks[job] for job in jobs):
        driver.turn()


def fail_once(obj: Any, name: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call raises."""
    own = getattr(obj, name)

    def failing(*args: Any, **how: Any) -> Any:
        monkeypatch.setattr(obj, name, own)
        raise error

    monkeypatch.setattr(obj, name, failing)


def test_a_prompt_of_one_token_is_generated_for_alone_and_beside_others(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    bodies = [body([5], 12), body([6], 12, seed=3), body(LONG, 12), body([7], 12, repetition_penalty=1.4)]
    expected = [driver.all(each)[0] for each in bodies]
    assert [12] * 4 == [len(tokens) for tokens in expected]
    texts_of(engine).prefixes.clear()
    assert expected == driver.all(*bodies)
    assert expected[::-1] == driver.all(*bodies[::-1])
    running = driver.submit(body(LONG, 60))
    begun(driver, running)
    assert expected[:2] == driver.all(*bodies[:2])


def test_a_text_whose_step_raised_leaves_no_prefix_behind(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    (expected,) = driver.all(body(LONG, 20))
    texts = texts_of(engine)
    texts.prefixes.clear()
    doomed = driver.submit(body(LONG, 20))
    begun(driver, doomed)

    def failing() -> None:
        raise RuntimeError("as asked")

    texts._decoder._batches[0].step = failing
    assert isinstance(driver.error(doomed), EngineError)
    assert 0 == len(texts.prefixes)
    assert [expected] == driver.all(body(LONG, 20))


def test_rows_beside_a_suspect_whose_step_raises_go_on_with_the_same_tokens(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    bodies = [body(LONG, 40), body([9, 8, 7], 40, seed=4), body(LONG[:30], 40, seed=5, presence_penalty=0.7)]
    expected = [driver.all(each)[0] for each in bodies]
    for ahead in (False, True):
        texts = texts_of(engine)
        texts._ahead, before = ahead, texts._ahead
        jobs = [driver.submit(each) for each in bodies]
        begun(driver, *jobs)
        suspect = driver.submit(body([3, 4, 5], 40), alone=True)
        begun(driver, suspect)

        def failing() -> None:
            raise RuntimeError("as asked")

        texts._decoder._solo[0].step = failing
        assert "as asked" in driver.error(suspect).message
        driver.run(*jobs)
        texts._ahead = before
        assert expected == [driver.tokens(job) for job in jobs]


def test_a_join_that_raises_fails_its_own_row_and_the_batch_is_read_again(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(engine)
    bodies = [body(LONG, 40, seed=6), body([9, 8, 7], 40)]
    expected = [driver.all(each)[0] for each in bodies]
    texts = texts_of(engine)
    jobs = [driver.submit(each) for each in bodies]
    begun(driver, *jobs)
    fail_once(texts._decoder, "join", ValueError("as asked"), monkeypatch)
    late = driver.submit(body([2, 3, 4, 5], 10))
    assert "as asked" in driver.error(late).message
    driver.run(*jobs)
    assert expected == [driver.tokens(job) for job in jobs]


def test_ends_and_tokens_of_a_step_that_raises_later_are_given_out(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(engine)
    texts = texts_of(engine)
    bodies = [body(LONG, 3), body([9, 8, 7], 30, seed=4)]
    expected = [driver.all(each)[0] for each in bodies]
    jobs = [driver.submit(each) for each in bodies]
    begun(driver, *jobs)
    reads = driver.submit(body([4] * 40, 5))
    real = texts._let_in

    def flushed(now: float) -> None:  # as when a bulk text is set aside for an urgent one
        real(now)
        texts._set_aside(texts._decoder.rows, now)

    monkeypatch.setattr(texts, "_let_in", flushed)
    fail_once(texts._reader, "read", RuntimeError("as asked"), monkeypatch)
    while reads not in driver.ends:
        driver.turn()
    monkeypatch.setattr(texts, "_let_in", real)
    driver.run(*jobs)
    assert expected == [driver.tokens(job) for job in jobs]
    assert 0 == len(texts)


def test_too_little_memory_fails_what_was_computed_with_the_figures_and_nothing_else(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(engine)
    (expected,) = driver.all(body(LONG, 40, seed=6))
    texts = texts_of(engine)
    job = driver.submit(body(LONG, 40, seed=6))
    begun(driver, job)
    fail_once(texts._reader, "read", RuntimeError("[malloc] Unable to allocate 123 bytes"), monkeypatch)
    error = driver.error(driver.submit(body([4] * 40, 5)))
    assert isinstance(error, MeshOutOfMemoryError)
    assert error.retryable
    assert {"mlx_active", "mlx_cache", "mlx_peak"} == set(error.details)
    driver.run(job)
    assert expected == driver.tokens(job)
    assert 0 == len(texts)


def test_tokens_that_are_no_text_end_their_own_request(engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(engine)
    neighbour = driver.submit(body([4, 5, 6], 20))
    bad = driver.submit(body([7, 8, 9], 20))
    begun(driver, neighbour, bad)
    row = texts_of(engine)._rows[bad]
    monkeypatch.setattr(row.text, "add", lambda token: {}[token])
    assert isinstance(driver.error(bad), EngineError)
    driver.run(neighbour)
    assert 20 == len(driver.tokens(neighbour))


@pytest.mark.parametrize("stage", ["waiting", "reading", "running", "paused", "set aside"])
def test_a_text_is_cancelled_in_every_stage_and_what_is_kept_of_it_is_right(engine: GenerateEngine, stage: str) -> None:
    driver = Driver(engine)
    texts = texts_of(engine)
    prompt = [(5 * n) % 400 + 3 for n in range(200)]
    (expected,) = driver.all(body(prompt, 20))
    texts.prefixes.clear()
    texts._pace.token_s, texts._pace.pass_s = 1.0, 0.0  # so that pieces are small
    job = driver.submit(body(prompt, 20))
    if stage == "waiting":
        driver.runner._obey(driver.runner.commands.popleft(), [])
    elif stage == "reading":
        for _ in range(3):
            driver.turn()
        assert len(texts._reader)
    else:
        begun(driver, job)
        assert len(texts._decoder)
    if stage == "paused":
        job.backlog.append(())
    if stage == "set aside":
        texts._set_aside(texts._decoder.rows, time.monotonic())
        assert len(texts._waiting)
    driver.cancel(job)
    driver.runner.turn()
    assert 0 == len(texts) == len(texts._decoder) == len(texts._reader) == len(texts._waiting) == texts.nbytes
    assert (stage == "waiting") == (not len(texts.prefixes))
    again = driver.submit(body(prompt, 20))
    driver.run(again)
    assert expected == driver.tokens(again)
    assert (stage == "waiting") == (driver.ends[again]["usage"]["cached"] == 0)


def test_a_deadline_that_passes_while_a_text_runs_is_told_and_frees_its_row(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    job = driver.submit(body(LONG, 1500), remaining_ms=150)
    assert "DEADLINE_EXCEEDED" == driver.error(job).code
    assert 0 == len(texts_of(engine)) == len(texts_of(engine)._decoder)


def test_what_is_kept_holds_exactly_the_tokens_it_is_kept_for(engine: GenerateEngine) -> None:
    """Whatever way a text ends, the cache kept for it gives the logits of its tokens read anew."""
    driver = Driver(engine)
    texts = texts_of(engine)
    (free,) = driver.all(body(LONG, 20, seed=8))
    for ahead in (False, True):
        texts._ahead, before = ahead, texts._ahead
        texts.prefixes.clear()
        jobs = [
            driver.submit(body(LONG, 7, seed=8)),
            driver.submit(body([*LONG, 9], 30, seed=8, stop_tokens=free[:3])),
            driver.submit(body([*LONG, 10], 30, seed=8, stop=["e", "a", "o", "i", " "])),
        ]
        driver.run(*jobs)
        cancelled = driver.submit(body([*LONG, 11], 30, seed=8))
        begun(driver, cancelled)
        driver.cancel(cancelled)
        driver.runner.turn()
        texts._ahead = before
        assert len(texts.prefixes) >= 3
        model = loaded_by(engine).model
        for key, entry in list(texts.prefixes._entries.items()):
            tokens = tokens_of(key)
            assert [len(tokens)] * 2 == [layer.offset for layer in entry.cache]
            fresh = model(mx.array([[*tokens, 3]]))[0, -1]
            kept = model(mx.array([[3]]), cache=texts.prefixes.fetch([*tokens, 3])[0])[0, -1]
            assert mx.allclose(fresh, kept, atol=1e-3)
