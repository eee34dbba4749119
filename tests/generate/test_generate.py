"""Tokens: those of mlx-lm, alone and beside others, and the same again for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
from mlx_lm.generate import stream_generate

from mlx_mesh_wire import EngineError, InvalidRequestError
from mlx_mesh_worker.engines.generate import GenerateEngine
from tests.generate.driver import Driver, loaded_by, mlx_lm_alone, texts_of

pytestmark = pytest.mark.slow

STARTS = ("a", "The second", "é", "12 x", "Once")
PROMPTS = [f"{start} number {i}: what is to be said of it" for i in range(10) for start in STARTS]


def reference(engine: GenerateEngine, prompt: str, count: int) -> list[int]:
    """Return mlx-lm's own greedy tokens."""
    loaded = loaded_by(engine)
    found = [r.token for r in stream_generate(loaded.model, loaded.tokenizer, prompt, max_tokens=count)]
    return [token for token in found if token not in loaded.end_tokens]


def test_greedy_tokens_are_those_of_mlx_lm_alone_and_in_mixed_batches(engine: GenerateEngine) -> None:
    with mlx_lm_alone(loaded_by(engine)):
        expected = [reference(engine, prompt, 24) for prompt in PROMPTS]
    driver = Driver(engine)
    together = driver.all(*({"prompt": prompt, "max_tokens": 24} for prompt in PROMPTS))
    assert expected == together
    assert expected[:5] == [driver.all({"prompt": prompt, "max_tokens": 24})[0] for prompt in PROMPTS[:5]]


def test_a_seed_gives_the_same_tokens_alone_and_beside_others_and_another_seed_others(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    bodies = [
        {"prompt": "Once", "max_tokens": 30, "temperature": 1.0, "top_p": 0.95, "seed": seed} for seed in range(6)
    ]
    together = driver.all(*bodies, {"prompt": "beside", "max_tokens": 40})
    alone = [driver.all(body)[0] for body in bodies]
    assert alone == together[:6]
    assert len({tuple(tokens) for tokens in alone}) > 4


def test_a_request_without_a_stream_gets_all_at_the_end(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    streamed = driver.submit({"prompt": "Once", "max_tokens": 12})
    whole = driver.submit({"prompt": "Once", "max_tokens": 12}, stream=False)
    driver.run(streamed, whole)
    assert [] == driver.chunks[whole]
    assert (driver.text(streamed), driver.tokens(streamed)) == (
        driver.ends[whole]["text"],
        driver.ends[whole]["tokens"],
    )
    end = driver.ends[streamed]
    assert ("length", 12) == (end["finish_reason"], end["usage"]["completion"])
    assert {"queue_ms", "prefill_ms", "decode_ms"} == set(end["timings"])


def test_a_reader_with_room_gets_each_token_as_it_comes_and_the_last_one_with_the_end(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    job = driver.submit({"prompt": "Once", "max_tokens": 20})
    driver.run(job)
    assert [1] * 20 == [len(part["tokens"]) for part in driver.parts(job)]


def test_a_stop_string_ends_the_text_before_it_and_nothing_of_it_is_shown(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    (free,) = [driver.submit({"prompt": "Once", "max_tokens": 40})]
    driver.run(free)
    text = driver.text(free)
    stop = text[10:14]
    job = driver.submit({"prompt": "Once", "max_tokens": 40, "stop": ["never there", stop]})
    driver.run(job)
    assert text[: text.index(stop)] == driver.text(job)
    assert "stop" == driver.ends[job]["finish_reason"]


def test_a_stop_token_ends_the_text(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    (tokens,) = driver.all({"prompt": "Once", "max_tokens": 10})
    again = driver.submit({"prompt": "Once", "max_tokens": 10, "stop_tokens": [tokens[4]]})
    driver.run(again)
    assert tokens[: tokens.index(tokens[4])] == driver.tokens(again)


def test_a_bias_and_penalties_change_what_is_chosen(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    (tokens,) = driver.all({"prompt": "Once", "max_tokens": 6})
    (other,) = driver.all({"prompt": "Once", "max_tokens": 6, "logit_bias": {str(tokens[0]): -100}})
    assert tokens[0] != other[0]
    (bound,) = driver.all({"prompt": "Once", "max_tokens": 30, "repetition_penalty": 5.0})
    assert len(set(bound)) > 20


def test_token_ids_are_a_prompt_too(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    ids = loaded_by(engine).tokenizer.encode("Once upon")
    assert driver.all({"prompt": "Once upon", "max_tokens": 8}) == driver.all({"prompt": ids, "max_tokens": 8})


def test_a_chat_is_put_into_the_template(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    asked = [{"role": "user", "content": "hello"}]
    ids = loaded_by(engine).tokenizer.encode("<user>hello</s><assistant>", add_special_tokens=False)
    chat = driver.submit({"messages": asked, "max_tokens": 8}, op="chat")
    plain = driver.submit({"prompt": ids, "max_tokens": 8})
    driver.run(chat, plain)
    assert driver.tokens(plain) == driver.tokens(chat)


@pytest.mark.parametrize(
    ("body", "op", "field"),
    [
        ("Once", "generate", "body"),
        ({}, "generate", "prompt"),
        ({"prompt": ""}, "generate", "prompt"),
        ({"prompt": []}, "generate", "prompt"),
        ({"prompt": [1, 512]}, "generate", "prompt"),
        ({"prompt": [True]}, "generate", "prompt"),
        ({"prompt": "word " * 5000}, "generate", "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "generate", "max_tokens"),
        ({"prompt": "x", "max_tokens": 1.5}, "generate", "max_tokens"),
        ({"prompt": "x", "temperature": float("nan")}, "generate", "temperature"),
        ({"prompt": "x", "temperature": -1}, "generate", "temperature"),
        ({"prompt": "x", "top_p": 2}, "generate", "top_p"),
        ({"prompt": "x", "seed": -1}, "generate", "seed"),
        ({"prompt": "x", "stop": ["a"] * 10_000}, "generate", "stop"),
        ({"prompt": "x", "stop": [""]}, "generate", "stop"),
        ({"prompt": "x", "stop_tokens": [512]}, "generate", "stop_tokens"),
        ({"prompt": "x", "logit_bias": {"512": 1}}, "generate", "logit_bias"),
        ({"prompt": "x", "logit_bias": {"1": "a"}}, "generate", "logit_bias"),
        ({"prompt": "x", "temprature": 1}, "generate", "temprature"),
        ({"prompt": "x"}, "chat", "prompt"),
        ({"messages": []}, "chat", "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "chat", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "chat", "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "chat", "messages"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_request_is_named_and_its_neighbour_never_notices(
    engine: GenerateEngine, body: object, op: str, field: str
) -> None:
    driver = Driver(engine)
    neighbour = driver.submit({"prompt": "Once", "max_tokens": 4})
    bad = driver.submit(body, op=op)
    error = driver.error(bad)
    assert isinstance(error, InvalidRequestError)
    assert field == error.details["field"]
    driver.run(neighbour)
    assert 4 == len(driver.tokens(neighbour))


def test_a_prompt_longer_than_the_model_reads_is_told_both_lengths(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    error = driver.error(driver.submit({"prompt": [5] * 3000}))
    assert (3000, 2048) == (error.details["tokens"], error.details["limit"])


def test_a_sampler_that_raises_ends_its_own_request_only(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(engine)
    neighbour = driver.submit({"prompt": "Once", "max_tokens": 8, "temperature": 1.0, "seed": 1})
    bad = driver.submit({"prompt": "Once", "max_tokens": 8, "temperature": 1.0, "seed": 666})
    choose = engine._make_sampler.__call__

    def failing(self: Any, logprobs: Any) -> Any:
        if self._sampling.seed == 666 and self.position == 3:
            raise RuntimeError("as asked")
        return choose(self, logprobs)

    monkeypatch.setattr(engine._make_sampler, "__call__", failing)
    error = driver.error(bad)
    assert isinstance(error, EngineError)
    assert "as asked" in error.message
    driver.run(neighbour)
    assert 8 == len(driver.tokens(neighbour))


def test_a_cancelled_request_leaves_at_the_next_step(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    stays, goes = (driver.submit({"prompt": text, "max_tokens": 60}) for text in ("Once", "Twice"))
    while len(driver.chunks[goes]) < 5:
        driver.turn()
    driver.cancel(goes)
    seen = len(driver.chunks[goes])
    driver.run(stays)
    assert seen == len(driver.chunks[goes])
    assert 0 == len(texts_of(engine))


def test_more_requests_than_rows_are_all_answered(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    found = driver.all(*({"prompt": f"prompt {i}", "max_tokens": 5} for i in range(80)))
    assert [5] * 80 == [len(tokens) for tokens in found]


def test_an_interactive_prompt_is_read_before_bulk_ones_that_came_first(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    bulk = [driver.submit({"prompt": f"bulk {i} " * 50, "max_tokens": 3}, lane=2) for i in range(40)]
    urgent = driver.submit({"prompt": "urgent", "max_tokens": 3}, lane=0)
    driver.run(urgent)
    assert sum(job in driver.ends for job in bulk) < 20
    driver.run(*bulk)


def test_a_step_that_raises_fails_its_jobs_and_the_engine_goes_on(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    doomed = [driver.submit({"prompt": f"doomed {i}", "max_tokens": 50}) for i in range(3)]
    while not driver.chunks[doomed[0]]:
        driver.turn()
    waiting = [driver.submit({"prompt": f"waiting {i}", "max_tokens": 5}) for i in range(3)]

    def failing() -> None:
        raise RuntimeError("as asked")

    for batch in texts_of(engine)._decoder._batches:
        batch.step = failing
    while not set(doomed) <= set(driver.ends):
        driver.turn()
    assert all("as asked" in driver.error(job).message for job in doomed)
    driver.turn()
    late = driver.submit({"prompt": "late", "max_tokens": 5})
    driver.run(late, *waiting)
    assert 5 == len(driver.tokens(late))
    assert 0 == len(texts_of(engine)) == len(texts_of(engine)._decoder)


def test_logits_that_are_no_numbers_end_their_own_text_only(
    engine: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(engine)
    neighbour = driver.submit({"prompt": "Once", "max_tokens": 8})
    while not driver.chunks[neighbour]:
        driver.turn()
    monkeypatch.setattr(engine, "_processors", lambda sampling: [lambda tokens, logits: logits * float("nan")])
    bad = driver.submit({"prompt": "Twice", "max_tokens": 8})
    assert "no finite numbers" in driver.error(bad).message
    driver.run(neighbour)
    assert 8 == len(driver.tokens(neighbour))
