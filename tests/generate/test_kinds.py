"""Models whose caches are windows, states, lists, or cannot be batched: the tokens are those of mlx-lm."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.engines.generate.probe import why_alone
from mlx_mesh_worker.engines.generate.single import SingleFile
from mlx_mesh_worker.engines.generate.slots import SlotKVCache
from tests.generate.driver import Driver, loaded_by, make_engine, texts_of
from tests.generate.kinds import KINDS, make_kind

pytestmark = pytest.mark.slow

LENGTHS = (1, 40, 2, 9, 23, 25, 30, 14)
COUNT = 30
PROMPTS = [[(7 * i + 31 * j) % 500 + 2 for j in range(length)] for i, length in enumerate(LENGTHS)]


def reference(engine: GenerateEngine, prompt: list[int], count: int) -> list[int]:
    """Return mlx-lm's own greedy tokens."""
    found = [int(token) for token, _ in generate_step(mx.array(prompt), loaded_by(engine).model, max_tokens=count)]
    return found[: found.index(1)] if 1 in found else found


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_mlx_lm_however_rows_join_leave_and_are_set_aside(
    kind: str, llama: Path, tmp_path: Path
) -> None:
    engine = make_engine(make_kind(tmp_path / kind, llama, kind))
    texts = texts_of(engine)
    batched = not isinstance(texts, SingleFile)
    assert batched == (kind != "llama4")
    assert ("continuous" if batched else "one at a time: ChunkedKVCache cannot be batched") in engine.about().values()
    expected = [reference(engine, prompt, COUNT) for prompt in PROMPTS]
    chance = random.Random(7)
    driver = Driver(engine)
    for ahead in (False, True) if batched else (False,):
        texts.prefixes.clear()
        texts._ahead = ahead
        todo = [(n, count) for n in range(len(PROMPTS)) for count in (COUNT, COUNT // 3)]
        chance.shuffle(todo)
        jobs: dict[Any, tuple[int, int, int]] = {}
        while todo or any(job not in driver.ends for job in jobs):
            if todo and chance.random() < 0.4:
                number, count = todo.pop()
                body = {"prompt": PROMPTS[number], "max_tokens": count}
                given = expected[number][: chance.randrange(count)] if chance.random() < 0.3 else None
                jobs[driver.submit(body, given=given)] = number, count, len(given or ())
            if batched and chance.random() < 0.1 and len(texts._decoder):
                texts._set_aside([chance.choice(texts._decoder.rows)], time.monotonic())
            driver.turn()
        for job, (number, count, skip) in jobs.items():
            assert isinstance(driver.ends[job], dict), driver.ends[job]
            assert expected[number][skip:count] == driver.tokens(job), (number, count, skip)
            assert len(expected[number][:count]) == driver.ends[job]["usage"]["completion"]
    assert not len(texts)


def test_a_conversation_beyond_a_window_or_with_a_state_goes_on_from_its_answer(llama: Path, tmp_path: Path) -> None:
    for kind in ("gemma3_text", "lfm2", "llama4"):
        engine = make_engine(make_kind(tmp_path / kind, llama, kind))
        driver = Driver(engine)
        prompt = PROMPTS[1]
        first = driver.submit({"prompt": prompt, "max_tokens": 10})
        driver.run(first)
        longer = [*prompt, *driver.tokens(first), 5, 6, 7]
        second = driver.submit({"prompt": longer, "max_tokens": 10})
        driver.run(second)
        assert driver.ends[second]["usage"]["cached"] >= len(prompt)
        assert reference(engine, longer, 10) == driver.tokens(second)


def test_a_model_whose_batches_give_other_numbers_or_fail_is_served_one_at_a_time(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sees_all(self: SlotKVCache, tokens: int, **_: Any) -> mx.array:
        return mx.ones((len(self._lengths), 1, 1, self._lengths.reach), mx.bool_)

    def fails(self: SlotKVCache, tokens: int, **_: Any) -> mx.array:
        raise TypeError("only a number is an offset")

    from mlx_lm import load

    model = load(str(llama))[0]
    assert "" == why_alone(model)
    monkeypatch.setattr(SlotKVCache, "make_mask", sees_all)
    assert "its batches give other numbers" == why_alone(model)
    monkeypatch.setattr(SlotKVCache, "make_mask", fails)
    assert "its batches fail: TypeError: only a number is an offset" == why_alone(model)
    engine = make_engine(llama)
    assert isinstance(texts_of(engine), SingleFile)
    assert 1 == engine.slots
    driver = Driver(engine)
    assert [reference(engine, PROMPTS[3], 9)] == driver.all({"prompt": PROMPTS[3], "max_tokens": 9})
