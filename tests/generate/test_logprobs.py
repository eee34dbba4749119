"""Log probabilities: those of mlx-lm's own logits, whatever else a request asks for and whoever is beside it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.sample_utils import make_logits_processors

from mlx_mesh_worker.engines.generate import GenerateEngine
from tests.generate.driver import Driver, loaded_by, texts_of

pytestmark = pytest.mark.slow

PROMPT = [(7 * n) % 400 + 3 for n in range(30)]
BASE: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12, "logprobs": True, "logit_bias": {"1": -100.0}}
SEEDED = {**BASE, "temperature": 0.9, "seed": 4, "top_p": 0.9, "top_k": 30}
PENALTIES = {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3}
BODIES = [
    {**BASE, "top_logprobs": 5},
    {**SEEDED, "top_logprobs": 20},
    {**SEEDED, **PENALTIES, "top_logprobs": 1},
    {**BASE, "logit_bias": {str(token): -100.0 for token in range(1, 500)}, "top_logprobs": 20},
    SEEDED,
]


def expected(engine: GenerateEngine, body: dict[str, Any], tokens: list[int]) -> list[mx.array]:
    """Return the log probabilities at each place of a text, by mlx-lm's model and processors."""
    processors = make_logits_processors(
        logit_bias={int(token): bias for token, bias in body["logit_bias"].items()},
        **{name: body.get(name) for name in PENALTIES},
    )
    context = [*body["prompt"], *tokens]
    logits = loaded_by(engine).model(mx.array([context]))[0]
    found = []
    for place in range(len(body["prompt"]), len(context)):
        own = logits[place - 1 : place]
        for process in processors:
            own = process(mx.array(context[:place]), own)
        found.append((own - mx.logsumexp(own, axis=-1, keepdims=True))[0])
    return found


def test_they_are_those_of_the_models_logits_alone_and_beside_others(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    alone = []
    for body in BODIES:
        alone.append(driver.submit(body))
        driver.run(alone[-1])
    texts_of(engine).prefixes.clear()
    together = [driver.submit(body) for body in BODIES]
    plain = driver.submit({key: value for key, value in SEEDED.items() if key != "logprobs"})
    driver.run(plain, *together)
    assert not any("logprobs" in part for part in driver.parts(plain))
    assert driver.tokens(plain) == driver.tokens(together[-1])
    for jobs in (alone, together):
        for body, job in zip(BODIES, jobs, strict=True):
            tokens = driver.tokens(job)
            given = [each for part in driver.parts(job) for each in part["logprobs"]]
            assert tokens == [each["token"] for each in given]
            assert 12 == len(tokens)
            for each, whole in zip(given, expected(engine, body, tokens), strict=True):
                assert whole[each["token"]].item() == pytest.approx(each["logprob"], abs=1e-3)
                top = each["top"]
                assert body.get("top_logprobs", 0) == len(top)
                assert [whole[token].item() for token, _ in top] == pytest.approx([p for _, p in top], abs=1e-3)
                likeliest = sorted(whole.tolist(), reverse=True)[: len(top)]
                assert likeliest == pytest.approx([p for _, p in top], abs=1e-3)


def test_those_of_a_text_without_a_stream_come_with_the_end(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    job = driver.submit({**BASE, "top_logprobs": 2}, stream=False)
    driver.run(job)
    assert 12 == len(driver.ends[job]["logprobs"])


def test_a_text_that_goes_on_has_those_of_its_rest(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    whole = driver.submit({**SEEDED, "top_logprobs": 3})
    driver.run(whole)
    rest = driver.submit({**SEEDED, "top_logprobs": 3}, given=driver.tokens(whole)[:5])
    driver.run(rest)
    every = [each for part in driver.parts(whole) for each in part["logprobs"]]
    found = [each for part in driver.parts(rest) for each in part["logprobs"]]
    assert [each["token"] for each in every[5:]] == [each["token"] for each in found]
    assert [each["logprob"] for each in every[5:]] == pytest.approx([each["logprob"] for each in found], abs=1e-3)


def test_tokens_that_a_schema_rules_out_are_not_among_the_likeliest(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    body = {**BASE, "top_logprobs": 20, "json_schema": {"enum": [True, False]}, "max_tokens": 8}
    del body["logit_bias"]
    job = driver.submit(body)
    driver.run(job)
    tops = [each["top"] for part in driver.parts(job) for each in part["logprobs"]]
    assert tops
    assert all(1 <= len(top) <= 20 and all(p > float("-inf") for _, p in top) for top in tops)
    assert any(len(top) < 20 for top in tops)
