"""Rows that are set aside, go on elsewhere, wait for memory, or run alone: the tokens are always the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_wire import InvalidRequestError, MeshOutOfMemoryError
from mlx_mesh_worker.engines.generate import GenerateEngine, row
from mlx_mesh_worker.engines.generate.pace import PRESSED_MAX
from mlx_mesh_worker.engines.generate.row import HELD_MAX
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Trim
from tests.generate.driver import Driver, make_engine, texts_of

pytestmark = pytest.mark.slow

BULK, INTERACTIVE = 2, 0
ENDLESS = {"1": -100}
"""The token that ends a text is never chosen."""

SEEDED = {
    "prompt": "Once upon a time",
    "max_tokens": 40,
    "temperature": 1.0,
    "top_p": 0.95,
    "seed": 11,
    "logit_bias": ENDLESS,
}

Made = Callable[..., GenerateEngine]


@pytest.fixture
def made(llama: Path) -> Made:
    def make(**settings: Any) -> GenerateEngine:
        return make_engine(llama, **settings)

    return make


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "Once upon a time", "max_tokens": 24},
        {**SEEDED, "max_tokens": 24},
        {**SEEDED, "max_tokens": 24, "repetition_penalty": 1.5, "presence_penalty": 0.5},
        {**SEEDED, "max_tokens": 24, "stop": ["zzzz", "never"]},
    ],
    ids=["greedy", "seeded", "penalties", "stop"],
)
def test_a_stream_goes_on_behind_any_token_with_the_same_tokens_and_text(
    engine: GenerateEngine, body: dict[str, Any]
) -> None:
    driver = Driver(engine)
    whole = driver.submit(body)
    driver.run(whole)
    tokens, chunks = driver.tokens(whole), driver.chunks[whole]
    for seen in range(len(chunks) + 1):
        given = [token for chunk in chunks[:seen] for token in chunk["tokens"]]
        rest = driver.submit(body, given=given)
        driver.run(rest)
        assert tokens[len(given) :] == driver.tokens(rest)
        assert driver.text(whole) == "".join(chunk["text"] for chunk in chunks[:seen]) + driver.text(rest)
        assert len(tokens) == driver.ends[rest]["usage"]["completion"]


def test_a_stream_whose_reader_has_every_token_only_gets_its_end(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    whole = driver.submit({"prompt": "Once", "max_tokens": 6})
    driver.run(whole)
    rest = driver.submit({"prompt": "Once", "max_tokens": 6}, given=driver.tokens(whole))
    driver.run(rest)
    assert ("length", [], 6) == (
        driver.ends[rest]["finish_reason"],
        driver.tokens(rest),
        driver.ends[rest]["usage"]["completion"],
    )


def test_a_state_that_is_no_list_of_tokens_is_refused(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    job = driver.submit({"prompt": "Once"}, given=[512])
    error = driver.error(job)
    assert isinstance(error, InvalidRequestError)
    assert "state" == error.details["field"]


def test_an_interactive_text_takes_the_place_of_a_bulk_one_which_goes_on_with_the_same_tokens(made: Made) -> None:
    engine = made(rows=4)
    driver = Driver(engine)
    bodies = [{**SEEDED, "seed": seed} for seed in range(4)]
    expected = [driver.all(body)[0] for body in bodies]
    bulk = [driver.submit(body, lane=BULK) for body in bodies]
    while not all(driver.chunks[job] for job in bulk):
        driver.turn()
    urgent = [driver.submit({"prompt": f"quick {i}", "max_tokens": 4}, lane=INTERACTIVE) for i in range(2)]
    driver.run(*urgent)
    assert not any(job in driver.ends for job in bulk)
    assert 2 == texts_of(engine).counts["preemptions"]
    driver.run(*bulk)
    assert expected == [driver.tokens(job) for job in bulk]


def test_standard_texts_wait_for_a_place(made: Made) -> None:
    engine = made(rows=2)
    driver = Driver(engine)
    bulk = [driver.submit({**SEEDED, "seed": seed}, lane=BULK) for seed in range(2)]
    while not all(driver.chunks[job] for job in bulk):
        driver.turn()
    driver.run(driver.submit({"prompt": "patient", "max_tokens": 4}, lane=1))
    assert 0 == texts_of(engine).counts["preemptions"]


def test_a_slow_reader_gets_several_tokens_in_a_chunk_and_the_same_text(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    (expected,) = driver.all(SEEDED)
    job = driver.submit(SEEDED)
    neighbour = driver.submit({"prompt": "beside", "max_tokens": 60, "logit_bias": ENDLESS})
    while len(driver.chunks[job]) < 3:
        driver.turn()
    job.backlog.append(())
    held = len(driver.chunks[job])
    while len(driver.chunks[neighbour]) < 20:
        driver.turn()
    assert held == len(driver.chunks[job])
    job.backlog.clear()
    driver.run(job, neighbour)
    assert expected == driver.tokens(job)
    assert max(len(chunk["tokens"]) for chunk in driver.chunks[job]) > 5


def test_a_text_that_may_have_to_begin_anew_is_cut_in_the_same_way_however_slow_its_reader_is(
    engine: GenerateEngine,
) -> None:
    driver = Driver(engine)
    body = {**SEEDED, "max_tokens": HELD_MAX + 100}
    calm = driver.submit(body, resumable=False)
    driver.run(calm)
    slow = driver.submit(body, resumable=False)
    while len(driver.chunks[slow]) < 3:
        driver.turn()
    held = len(driver.chunks[slow])
    slow.backlog.append(())
    neighbour = driver.submit({**body, "max_tokens": HELD_MAX + 200})
    while neighbour not in driver.ends:
        before = len(driver.chunks[slow])
        driver.turn()
        slow.backlog.extend([()] * (len(driver.chunks[slow]) - before))
    assert held + HELD_MAX - 1 <= len(driver.chunks[slow]) <= held + HELD_MAX + 1
    assert slow not in driver.ends
    slow.backlog.clear()
    driver.run(slow)
    assert driver.parts(calm)[:-1] == driver.parts(slow)[:-1]
    assert driver.tokens(calm) == driver.tokens(slow)


def test_a_reader_that_is_far_behind_pauses_its_text_and_nobody_else(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    body = {"prompt": "Once", "max_tokens": HELD_MAX + 200, "temperature": 1.0, "seed": 5, "logit_bias": ENDLESS}
    (expected,) = driver.all(body)
    job = driver.submit(body)
    neighbour = driver.submit({**body, "max_tokens": HELD_MAX + 250})
    while not driver.chunks[job]:
        driver.turn()
    job.backlog.append(())
    driver.run(neighbour)
    assert 1 == len(texts_of(engine))
    assert 0 == len(texts_of(engine)._decoder)
    job.backlog.clear()
    driver.run(job)
    assert expected == driver.tokens(job)


def test_a_text_that_outgrows_its_batch_moves_on_with_the_same_tokens(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(engine)
    body = {"prompt": [7] * 245, "max_tokens": 60, "temperature": 1.0, "seed": 3, "logit_bias": ENDLESS}
    bodies = [body, {**body, "seed": 4}, {"prompt": "short", "max_tokens": 70, "logit_bias": ENDLESS}]
    expected = [driver.all(each)[0] for each in bodies]
    texts_of(engine).prefixes.clear()
    monkeypatch.setattr(row, "LOOKAHEAD", 4)
    assert expected == driver.all(*bodies)


def test_a_text_that_can_never_fit_is_refused_with_the_figures(made: Made) -> None:
    engine = made(kv_max_bytes=2**19)
    each = texts_of(engine)._token_bytes.each
    driver = Driver(engine)
    error = driver.error(driver.submit({"prompt": "Once", "max_tokens": 2000}))
    assert isinstance(error, MeshOutOfMemoryError)
    assert not error.retryable
    assert 2**19 == error.details["limit"] < error.details["needed"]
    assert error.details["needed"] >= 2000 * each > 0


def test_texts_wait_for_memory_and_all_are_answered(made: Made) -> None:
    engine = made(kv_max_bytes=2**19)
    texts = texts_of(engine)
    driver = Driver(engine)
    body = {"prompt": "Once", "max_tokens": 400, "logit_bias": ENDLESS}
    most = 2**19 // texts._token_bytes.of(406)
    jobs = [driver.submit({**body, "temperature": 1.0, "seed": seed}) for seed in range(3 * most)]
    together = 0
    while not all(job in driver.ends for job in jobs):
        driver.turn()
        together = max(together, len(texts._decoder))
        assert texts._taken() + texts.prefixes.nbytes <= 2**19
    assert 1 <= together <= most
    assert all(400 == len(driver.tokens(job)) for job in jobs)


def test_a_text_that_waits_for_memory_until_its_deadline_is_told_the_figures(made: Made) -> None:
    engine = made(kv_max_bytes=2**20)
    driver = Driver(engine)
    body = {"prompt": "Once", "max_tokens": 1500, "logit_bias": ENDLESS}
    runs = driver.submit(body)
    waits = driver.submit(body)
    driver.turn()
    waits.deadline = 0.0  # as if the runner, which minds it as it was, had come just in time to see it near
    error = driver.error(waits)
    assert isinstance(error, MeshOutOfMemoryError)
    assert error.retryable
    assert {"needed", "limit", "taken"} == set(error.details)
    assert runs not in driver.ends


def test_an_interactive_text_gets_the_memory_of_a_bulk_one(made: Made) -> None:
    engine = made(kv_max_bytes=2**20)
    driver = Driver(engine)
    body = {"prompt": "Once", "max_tokens": 1500, "logit_bias": ENDLESS, "temperature": 1.0, "seed": 2}
    bulk = driver.submit(body, lane=BULK)
    while len(driver.chunks[bulk]) < 10:
        driver.turn()
    urgent = driver.submit({**body, "seed": 3, "max_tokens": 1000}, lane=INTERACTIVE)
    driver.run(urgent)
    assert bulk not in driver.ends
    driver.run(bulk)
    assert driver.all(body)[0] == driver.tokens(bulk)


def test_a_suspect_is_computed_in_steps_of_its_own_until_it_is_cleared(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    bodies = [{**SEEDED, "seed": seed} for seed in range(4)]
    expected = [driver.all(body)[0] for body in bodies]
    texts_of(engine).prefixes.clear()
    steps: list[tuple[Job, ...]] = []
    mark = engine.mark

    def marking(jobs: Any) -> None:
        steps.append(tuple(jobs))
        mark(jobs)

    engine.mark = marking
    plain = [driver.submit(body) for body in bodies[:2]]
    suspects = [driver.submit(body, alone=True) for body in bodies[2:]]
    driver.run(*plain, *suspects)
    assert expected == [driver.tokens(job) for job in (*plain, *suspects)]
    for suspect in suspects:
        mine = [step for step in steps if suspect in step]
        assert [(suspect,)] * 5 == mine[:5]
        assert any(len(step) > 1 for step in mine[5:])
    assert any(set(plain) <= set(step) for step in steps)


def test_while_memory_is_short_half_of_the_rows_begin_those_that_run_go_on_and_nothing_is_kept(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [{**SEEDED, "seed": seed, "max_tokens": 30 + 10 * (seed < 3)} for seed in range(6)]
    expected = Driver(made()).all(*bodies)
    engine = made(rows=4)
    driver, texts = Driver(engine), texts_of(engine)
    texts._pace.token_s, texts._pace.pass_s = 1e-5, 0.0  # pieces are large on any machine, however busy it is
    monkeypatch.setattr(texts._pace, "read", lambda *_, **__: None)
    assert texts._pace.piece(running=False) > PRESSED_MAX
    jobs = [driver.submit(body) for body in bodies]
    while len(texts._decoder) < 4:
        driver.turn()
    driver.runner.commands.append(Trim(2))
    driver.turn()
    assert 4 == len(texts._decoder)
    assert PRESSED_MAX >= texts._pace.piece(running=False)
    while jobs[3] not in driver.ends:
        driver.turn()
    for _ in range(4):
        driver.turn()
    assert {jobs[0], jobs[1], jobs[2]} == {each.job for each in texts._decoder.rows}, "three are more than two"
    while not set(jobs[:3]) <= driver.ends.keys():
        driver.turn()
        assert len(texts._reader) + len(texts._decoder) <= 3
    driver.run(*jobs)
    assert expected == [driver.tokens(job) for job in jobs]
    assert 0 == len(texts.prefixes) == texts.prefixes.nbytes
    driver.runner.commands.append(Trim(0))
    again = [driver.submit(body) for body in bodies]
    while len(texts._decoder) < 4:
        driver.turn()
    assert texts._pace.piece(running=False) > PRESSED_MAX
    driver.run(*again)
    assert expected == [driver.tokens(job) for job in again]
    assert len(texts.prefixes)


def test_while_memory_is_short_an_interactive_text_still_takes_the_place_of_a_bulk_one(made: Made) -> None:
    engine = made(rows=4)
    driver, texts = Driver(engine), texts_of(engine)
    bulk = [driver.submit({**SEEDED, "seed": seed}, lane=BULK) for seed in range(4)]
    while len(texts._decoder) < 4:
        driver.turn()
    driver.runner.commands.append(Trim(2))
    urgent = driver.submit({**SEEDED, "max_tokens": 3}, lane=INTERACTIVE)
    driver.run(urgent)
    assert not any(job in driver.ends for job in bulk)
    assert 1 == texts.counts["preemptions"]
    driver.run(*bulk)
