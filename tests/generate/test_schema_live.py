"""Texts held to a schema by the engine, beside others, resumed in the middle, with a draft model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlx_mesh_wire import InvalidRequestError
from mlx_mesh_worker.engines.generate import GenerateEngine
from tests.generate.driver import Driver, make_engine, texts_of

pytestmark = pytest.mark.slow

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["cat", "dog"]},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "kind", "ages"],
    "additionalProperties": False,
}
# Most are a third of that; white space is free, and how much of it comes hangs on what the tokenizer was trained on.
HELD = {"prompt": "Once upon a time", "max_tokens": 900, "json_schema": SCHEMA}
SAMPLED = [{**HELD, "temperature": 1.0, "seed": seed} for seed in range(1, 5)]


def test_texts_are_json_of_their_schema_and_those_beside_them_are_what_they_are_alone(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    free = [{"prompt": f"beside {n}", "max_tokens": 40, "temperature": n % 2 * 1.0, "seed": n} for n in range(4)]
    expected = driver.all(*free)
    texts_of(engine).prefixes.clear()
    plain = [driver.submit(body) for body in free]
    held = [driver.submit(body) for body in (HELD, *SAMPLED)]
    driver.run(*plain, *held)
    assert expected == [driver.tokens(job) for job in plain]
    for job in held:
        jsonschema.validate(json.loads(driver.text(job)), SCHEMA)
        assert "stop" == driver.ends[job]["finish_reason"]
    assert len({driver.text(job) for job in held}) > 3
    assert [driver.tokens(job) for job in held] == [driver.all(body)[0] for body in (HELD, *SAMPLED)]


@pytest.mark.parametrize("body", [HELD, SAMPLED[0]], ids=["greedy", "seeded"])
def test_a_text_that_goes_on_in_the_middle_has_the_same_rest(engine: GenerateEngine, body: dict[str, Any]) -> None:
    driver = Driver(engine)
    whole = driver.submit(body)
    driver.run(whole)
    tokens = driver.tokens(whole)
    for seen in {0, 1, len(tokens) // 2, len(tokens) - 1, len(tokens)}:
        rest = driver.submit(body, given=tokens[:seen])
        driver.run(rest)
        assert tokens[seen:] == driver.tokens(rest)
        assert driver.text(whole).endswith(driver.text(rest))


def test_a_text_that_is_set_aside_stays_within_its_schema(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    (expected,) = driver.all(SAMPLED[1])
    job = driver.submit(SAMPLED[1])
    while job not in driver.ends:
        driver.turn()
        texts_of(engine)._set_aside(texts_of(engine)._decoder.rows, 0.0)
    assert expected == driver.tokens(job)


def test_a_draft_model_changes_nothing(engine: GenerateEngine, llama: Path) -> None:
    drafting = make_engine(llama, draft_model=str(llama))
    assert Driver(engine).all(SAMPLED[0]) == Driver(drafting).all(SAMPLED[0])


@pytest.mark.parametrize(
    "schema",
    [{"type": "no such type"}, {"not": {}}, {"$ref": "#/nowhere"}, '{"type": ', 7, {"pattern": "(", "type": "string"}],
    ids=str,
)
def test_a_schema_that_cannot_be_compiled_is_named_and_nobody_else_notices(engine: GenerateEngine, schema: Any) -> None:
    driver = Driver(engine)
    neighbour = driver.submit({"prompt": "Once", "max_tokens": 6})
    error = driver.error(driver.submit({**HELD, "json_schema": schema}))
    assert isinstance(error, InvalidRequestError)
    assert "json_schema" == error.details["field"]
    assert error.message.startswith("json_schema")
    driver.run(neighbour)
    assert 6 == len(driver.tokens(neighbour))
