"""A draft model speeds texts up and changes none of their tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from benchmarks.llama import make_llama
from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.engines.generate.row import HELD_MAX
from mlx_mesh_worker.engines.generate.single import SingleFile
from tests.generate.driver import Driver, loaded_by, make_engine, texts_of, tokens_of
from tests.generate.kinds import make_kind

pytestmark = pytest.mark.slow

PROMPT = [(7 * n) % 400 + 3 for n in range(40)]
ENDLESS = {"1": -100}
SEEDED = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0.6, "seed": 5, "logit_bias": ENDLESS}
BODIES: list[dict[str, Any]] = [
    {"prompt": PROMPT, "max_tokens": 30},
    {"prompt": [9], "max_tokens": 12},
    SEEDED,
    {**SEEDED, "seed": 6, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def draft(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model itself with some noise: many of its guesses are right."""
    folder = tmp_path_factory.mktemp("models") / "tiny-draft"
    shutil.copytree(llama, folder)
    mx.random.seed(5)
    weights: Any = mx.load(str(folder / "model.safetensors"))
    noisy = {name: value + 0.02 * mx.std(value) * mx.random.normal(value.shape) for name, value in weights.items()}
    mx.eval(noisy)
    mx.save_safetensors(str(folder / "model.safetensors"), noisy, metadata={"format": "mlx"})
    return folder


@pytest.fixture(scope="module")
def drafting(llama: Path, draft: Path) -> GenerateEngine:
    return make_engine(llama, draft_model=str(draft))


def test_tokens_and_ends_are_those_without_a_draft(drafting: GenerateEngine, engine: GenerateEngine) -> None:
    assert {"one at a time: a draft model is used"} == set(drafting.about().values())
    assert 1 == drafting.slots == drafting.bulk_slots
    plain, drafted = Driver(engine), Driver(drafting)
    before = drafting.counters()
    for body in BODIES:
        assert plain.all(body) == drafted.all(body)
    after = drafting.counters()
    assert after["accepted_tokens"] - before["accepted_tokens"] > 10
    assert after["drafted_tokens"] - before["drafted_tokens"] > after["accepted_tokens"] - before["accepted_tokens"]
    assert after["generated_tokens"] - before["generated_tokens"] >= 100
    assert after["read_tokens"] > before["read_tokens"]


def test_a_text_goes_on_behind_any_token(drafting: GenerateEngine) -> None:
    driver = Driver(drafting)
    (whole,) = driver.all(SEEDED)
    for seen in (0, 1, 7, 20, 39, 40):
        rest = driver.submit(SEEDED, given=whole[:seen])
        driver.run(rest)
        assert whole[seen:] == driver.tokens(rest)
        assert 40 == driver.ends[rest]["usage"]["completion"]


def test_what_is_kept_of_a_text_that_ends_in_the_middle_of_a_round_is_right(drafting: GenerateEngine) -> None:
    driver = Driver(drafting)
    texts = texts_of(drafting)
    (whole,) = driver.all({"prompt": PROMPT, "max_tokens": 30})
    tokenizer = loaded_by(drafting).tokenizer
    model = loaded_by(drafting).model
    for place in range(4, 20):
        texts.prefixes.clear()
        stop = tokenizer.decode(whole[place : place + 1])
        job = driver.submit({"prompt": PROMPT, "max_tokens": 30, "stop": [stop]} if stop.strip("\ufffd") else SEEDED)
        driver.run(job)
        assert 1 == len(texts.prefixes)
        ((key, entry),) = texts.prefixes._entries.items()
        tokens = tokens_of(key)
        assert [len(tokens)] * 2 == [layer.offset for layer in entry.cache]
        kept = model(mx.array([[3]]), cache=texts.prefixes.fetch([*tokens, 3])[0])[0, -1]
        assert mx.allclose(model(mx.array([[*tokens, 3]]))[0, -1], kept, atol=1e-3)


def test_a_reader_that_is_far_behind_lets_others_go_first_and_gets_the_same_text(drafting: GenerateEngine) -> None:
    driver = Driver(drafting)
    body = {**SEEDED, "max_tokens": HELD_MAX + 80}
    (expected,) = driver.all(body)
    slow = driver.submit(body)
    while not driver.chunks[slow]:
        driver.turn()
    slow.backlog.append(())
    other = driver.submit({**SEEDED, "seed": 9})
    driver.run(other)
    assert slow not in driver.ends
    slow.backlog.clear()
    driver.run(slow)
    assert expected == driver.tokens(slow)


def test_texts_that_run_or_wait_are_cancelled(drafting: GenerateEngine) -> None:
    driver = Driver(drafting)
    texts = texts_of(drafting)
    runs, waits, last = (driver.submit({**SEEDED, "seed": seed}) for seed in (1, 2, 3))
    while not driver.chunks[runs]:
        driver.turn()
    driver.cancel(waits)
    driver.cancel(runs)
    driver.run(last)
    assert runs not in driver.ends
    assert waits not in driver.ends
    assert 40 == len(driver.tokens(last))
    assert 0 == len(texts) == texts.nbytes


def test_more_urgent_texts_go_first(drafting: GenerateEngine) -> None:
    driver = Driver(drafting)
    jobs = [driver.submit({**SEEDED, "seed": seed}, lane=2 - seed) for seed in range(3)]
    driver.run(*jobs)
    assert jobs[::-1] == list(driver.ends)


def test_what_raises_or_is_no_number_ends_its_own_text(
    drafting: GenerateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(drafting)
    monkeypatch.setattr(drafting, "_processors", lambda sampling: [lambda tokens, logits: logits * float("nan")])
    bad = driver.submit({"prompt": PROMPT, "max_tokens": 8})
    driver.turn()
    monkeypatch.undo()
    good = driver.submit({"prompt": PROMPT, "max_tokens": 8})
    assert "no finite numbers" in driver.error(bad).message
    driver.run(good)
    assert 8 == len(driver.tokens(good))


def test_a_draft_of_another_vocabulary_or_kind_is_refused_and_the_flag_named(llama: Path, tmp_path: Path) -> None:
    other = make_llama(tmp_path / "other", "tiny")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    (last,) = (token for token, number in vocabulary.items() if number == 511)
    vocabulary["another"] = vocabulary.pop(last)
    tokenizer["model"]["merges"] = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) != last]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(EngineLoadError, match="--draft-model: other has another vocabulary than tiny-llama"):
        make_engine(llama, draft_model=str(other))
    with pytest.raises(EngineLoadError, match=r"--draft-model: draft: its cache .ArraysCache. cannot be cut back"):
        make_engine(llama, draft_model=str(make_kind(tmp_path / "state", llama, "mamba2")))


def test_a_model_that_cannot_be_batched_is_served_beside_a_batched_one(llama: Path, tmp_path: Path) -> None:
    chunked = make_kind(tmp_path / "chunked", llama, "llama4")
    engine = make_engine(Path(f"{llama},{chunked}"))
    driver = Driver(engine)
    jobs = [driver.submit({"prompt": PROMPT, "max_tokens": 6}, model=model) for model in ("", "chunked") * 3]
    driver.run(*jobs)
    assert isinstance(texts_of(engine, "chunked"), SingleFile)
    assert (
        1
        == len({tuple(driver.tokens(job)) for job in jobs[::2]})
        == len({tuple(driver.tokens(job)) for job in jobs[1::2]})
    )
