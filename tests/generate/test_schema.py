"""Text that is held to a JSON schema: always valid, from any place on, and nobody beside it notices."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import mlx.core as mx
import pytest
from mlx_lm import load
from mlx_lm.generate import BatchGenerator

from mlx_mesh_wire import EngineError, InvalidRequestError
from mlx_mesh_worker.engines.generate.request import Sampling
from mlx_mesh_worker.engines.generate.sampling import Sampler
from mlx_mesh_worker.engines.generate.schema import GRAMMARS_MAX, OVERLAP, SchemaCompiler, SchemaProcessor
from mlx_mesh_worker.engines.generate.schema_check import CPU_S, WALL_S, check, is_doubtful
from mlx_mesh_worker.engines.generate.schema_text import ANY_OBJECT, SCHEMA_MAX_CHARS, schema_text

pytestmark = pytest.mark.slow

VOCABULARY = 512
END = 1


class Tiny(NamedTuple):
    model: Any
    tokenizer: Any
    compiler: SchemaCompiler


@pytest.fixture(scope="module")
def tiny(llama: Path) -> Tiny:
    model, tokenizer = load(str(llama))[:2]
    return Tiny(model, tokenizer, SchemaCompiler(tokenizer, VOCABULARY, [END]))


class Asked(NamedTuple):
    """A row: its prompt, seed, and the schema it is held to, if any."""

    prompt: str
    seed: int
    schema: Any = None
    begun: Sequence[int] = ()


def generate(tiny: Tiny, *rows: Asked, max_tokens: int = 600, temperature: float = 1.0) -> list[list[int]]:
    """Return the tokens of each row, all in one batch, without the end token; a row may have begun elsewhere."""
    generator: Any = BatchGenerator(tiny.model, stop_tokens=[[END]], completion_batch_size=32, prefill_batch_size=32)
    prompts = [tiny.tokenizer.encode(row.prompt) for row in rows]
    samplers = [Sampler(Sampling(temperature=temperature, seed=row.seed)) for row in rows]
    for sampler, row in zip(samplers, rows, strict=True):
        sampler.position = len(row.begun)
    processors: list[list[SchemaProcessor]] = [
        [] if row.schema is None else [tiny.compiler.processor(tiny.compiler.compile(row.schema), len(prompt))]
        for row, prompt in zip(rows, prompts, strict=True)
    ]
    uids = generator.insert(
        [[*prompt, *row.begun] for row, prompt in zip(rows, prompts, strict=True)],
        max_tokens=[max_tokens] * len(rows),
        samplers=samplers,
        logits_processors=processors,
    )
    tokens: dict[int, list[int]] = {uid: [] for uid in uids}
    ended: dict[int, str] = {}
    while len(ended) < len(rows):
        for response in generator.next()[1]:
            if response.finish_reason != "stop":
                tokens[response.uid].append(response.token)
            if response.finish_reason:
                ended[response.uid] = response.finish_reason
    generator.close()
    bounded = [ended[uid] for uid, row in zip(uids, rows, strict=True) if row.schema is not None]
    assert set(bounded) <= {"stop"}, "a text was cut off"
    return [tokens[uid] for uid in uids]


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "home": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Köln", "東京", "São Paulo"]},
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
}  # fmt: skip

SCHEMAS: dict[str, Any] = {
    "nested": PERSON,
    "enum": {"enum": ["red", "grün", 7, None, {"a": [True]}, "🚀"]},
    "array": {"type": "array", "items": {"type": "number", "minimum": -5, "maximum": 5}, "minItems": 2, "maxItems": 4},
    "pattern": {"type": "string", "pattern": "^(ab|é){2,5}-[A-F]+$", "maxLength": 20},
    "union": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"const": "機"}, "maxItems": 3}]},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "string", "maxLength": 4}],
              "items": False, "minItems": 2},
    "references": {
        "$defs": {"leaf": {"type": "integer", "minimum": 1, "maximum": 9},
                  "tree": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2}},
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}},
        "required": ["left", "right"], "additionalProperties": False,
    },
    "format": {
        "type": "object",
        "properties": {"on": {"type": "string", "format": "date"},
                       "ratio": {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 10}},
        "required": ["on", "ratio"], "additionalProperties": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_weights_give_nothing_but_valid_json(tiny: Tiny, name: str) -> None:
    schema = SCHEMAS[name]
    found = generate(tiny, *(Asked(f"{seed} begins with", seed, schema) for seed in range(24)))
    texts = [tiny.tokenizer.decode(tokens) for tokens in found]
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for text in texts:
        validator.validate(json.loads(text))
    assert len(set(texts)) > 1, "a schema leaves a choice, and temperature 1 takes it"


def test_properties_come_in_the_order_of_the_schema_and_whitespace_is_bounded(tiny: Tiny) -> None:
    (tokens,) = generate(tiny, Asked("Once", 3, PERSON))
    text = tiny.tokenizer.decode(tokens)
    assert list(json.loads(text)) == ["name", "age", "home"]
    assert not re.search(r"\s{25}", re.sub(r'"[^"]*"', '""', text))


@pytest.mark.parametrize("given", [True, json.dumps(PERSON, indent=1)], ids=["true", "text"])
def test_a_schema_may_be_true_or_a_text(tiny: Tiny, given: Any) -> None:
    grammar = tiny.compiler.compile(given)
    assert grammar.schema == (ANY_OBJECT if given is True else schema_text(PERSON))
    assert allowed(tiny, tiny.compiler.processor(grammar, 0), []) == {"{"}


def test_rows_beside_one_with_a_schema_keep_their_tokens(tiny: Tiny) -> None:
    free = [Asked(f"row {seed}", seed) for seed in range(6)]
    alone = generate(tiny, *free, max_tokens=40)
    held = [Asked("held", seed, SCHEMAS["enum"]) for seed in range(3)]
    mixed = generate(tiny, *free[:3], *held, *free[3:], max_tokens=40)
    assert alone == mixed[:3] + mixed[6:]


def test_a_text_that_goes_on_elsewhere_has_the_same_tokens(tiny: Tiny) -> None:
    whole = generate(tiny, *(Asked("Once", seed, PERSON) for seed in range(4)))
    for seed, tokens in enumerate(whole):
        cut = len(tokens) // 2
        (rest,) = generate(tiny, Asked("Once", seed, PERSON, tokens[:cut]))
        assert tokens == tokens[:cut] + rest


def mask(processor: SchemaProcessor, tokens: Sequence[int], width: int = VOCABULARY) -> list[bool]:
    found: list[list[bool]] = mx.isfinite(processor(mx.array(tokens, dtype=mx.int32), mx.zeros((1, width)))).tolist()  # type: ignore[assignment]
    return found[0]


def allowed(tiny: Tiny, processor: SchemaProcessor, tokens: Sequence[int]) -> set[str]:
    return {tiny.tokenizer.decode([token]) for token, may in enumerate(mask(processor, tokens)) if may}


def test_a_shorter_or_changed_context_is_followed_back(tiny: Tiny) -> None:
    grammar = tiny.compiler.compile({"type": "array", "items": {"type": "integer"}})
    prompt = [9, 8, 7]
    text: list[int] = tiny.tokenizer.encode("[1,22,333,4444,5," + "6," * 40)
    used = tiny.compiler.processor(grammar, len(prompt))
    fresh = {n: mask(tiny.compiler.processor(grammar, len(prompt)), [*prompt, *text[:n]]) for n in range(len(text) + 1)}
    for n in (0, len(text), 5, 6, 7, len(text), len(text) - 1, 0, 3):
        assert fresh[n] == mask(used, [*prompt, *text[:n]]), n
    other = [*text[: len(text) - OVERLAP // 2], *tiny.tokenizer.encode("77" * (OVERLAP // 4))]
    mask(used, [*prompt, *text])
    assert mask(tiny.compiler.processor(grammar, len(prompt)), [*prompt, *other]) == mask(used, [*prompt, *other])


def test_after_the_end_only_end_tokens_follow_and_it_may_be_taken_back(tiny: Tiny) -> None:
    processor = tiny.compiler.processor(tiny.compiler.compile({"const": "ab"}), 0)
    text: list[int] = tiny.tokenizer.encode('"ab"')
    only_end = [token == END for token in range(VOCABULARY)]
    assert only_end == mask(processor, text)
    assert only_end == mask(processor, [*text, END])
    assert only_end == mask(processor, [*text, END, 77])
    assert {'"'} <= allowed(tiny, processor, text[:-1])
    assert only_end == mask(processor, text)


def test_an_end_may_come_where_the_json_could_go_on(tiny: Tiny) -> None:
    processor = tiny.compiler.processor(tiny.compiler.compile({"type": "integer"}), 0)
    found = mask(processor, tiny.tokenizer.encode("12"))
    assert found[END]
    assert sum(found) > 10
    assert not mask(processor, tiny.tokenizer.encode("-"))[END]


def test_an_end_token_that_is_a_letter_too_never_stands_inside_a_text(tiny: Tiny) -> None:
    letter = tiny.tokenizer.encode("x")[0]
    compiler = SchemaCompiler(tiny.tokenizer, VOCABULARY, [END, letter])
    processor = compiler.processor(compiler.compile({"type": "string", "maxLength": 3}), 0)
    inside = mask(processor, tiny.tokenizer.encode('"y'))
    assert (False, False) == (inside[END], inside[letter])
    after = mask(processor, tiny.tokenizer.encode('"y"'))
    assert {END, letter} == {token for token, may in enumerate(after) if may}


@pytest.mark.parametrize(("vocabulary", "width"), [(VOCABULARY, 640), (700, 700), (VOCABULARY, 400)])
def test_logits_may_be_wider_or_narrower_than_the_vocabulary(tiny: Tiny, vocabulary: int, width: int) -> None:
    compiler = SchemaCompiler(tiny.tokenizer, vocabulary, [END])
    processor = compiler.processor(compiler.compile({"type": "string"}), 0)
    found = mask(processor, tiny.tokenizer.encode('"'), width)
    assert (width, False) == (len(found), any(found[VOCABULARY:]))
    assert sum(found) > 250


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_what_may_come_keeps_its_logit_and_type(tiny: Tiny, dtype: mx.Dtype) -> None:
    processor = tiny.compiler.processor(tiny.compiler.compile({"type": "string"}), 0)
    logits = mx.random.normal((1, VOCABULARY)).astype(dtype)
    found = processor(mx.array([], dtype=mx.int32), logits)
    quote = tiny.tokenizer.encode('"')[0]
    assert (dtype, logits[0, quote].item()) == (found.dtype, found[0, quote].item())


def test_tokens_that_do_not_fit_the_schema_raise_every_time(tiny: Tiny) -> None:
    processor = tiny.compiler.processor(tiny.compiler.compile({"type": "integer"}), 0)
    for _ in range(2):
        with pytest.raises(EngineError, match="json_schema, token 1"):
            mask(processor, tiny.tokenizer.encode("1x"))
    with pytest.raises(EngineError, match="shorter than the prompt"):
        mask(tiny.compiler.processor(tiny.compiler.compile({"type": "integer"}), 5), [1, 2])


TIME = f"takes more than ({CPU_S}|{WALL_S}) s"
"""Of the processor; by the clock where it is busy with other things."""

REFUSED: dict[str, tuple[Any, str]] = {
    "remote": ({"$ref": "http://example.com/x.json"}, "not present in a registry"),
    "missing": ({"$ref": "#/$defs/nowhere"}, "does not exist"),
    "type": ({"type": "strnig"}, "Invalid type: strnig"),
    "keyword": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "format": ({"type": "string", "format": "nonesuch"}, "Unknown format"),
    "look-around": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "nothing fits": ({"type": "integer", "minimum": 5, "maximum": 3}, "greater than maximum"),
    "endless": ({"$ref": "#"}, "fits|stopped|NoExtension"),
    "too many": ({"type": "object", "properties": {f"p{n}": {} for n in range(1800)}}, "items; max is 5000"),
    "huge repetition": ({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}, "too many expressions"),
    "intersected": ({"allOf": [{"pattern": f"^(a|b)*a(a|b){{{n}}}$"} for n in range(30)], "type": "string"}, TIME),
    "compared": ({"type": "object", "patternProperties": {f"^a{n}[a-z]*$": {} for n in range(500)}}, TIME),
    "divided": ({"anyOf": [{"type": "integer", "multipleOf": 997 + 2 * n} for n in range(300)]}, f"{TIME}|fuel"),
    "product": ({"allOf": [{"anyOf": [{"properties": {f"a{n}": {}}}, {"properties": {f"b{n}": {"type": "null"}}}]}
                           for n in range(16)]}, "too large"),
    "deep": ('{"items":' * 200 + "{}" + "}" * 200, "recursion limit"),
    "long": ({"enum": [f"value {n} of many" for n in range(4000)]}, f"{SCHEMA_MAX_CHARS} characters"),
    "own keyword": ({"x-guidance": {"lenient": True}, "type": "string"}, "x-guidance"),
    "no schema": ([1], "a JSON schema"),
    "no JSON": ("{", "Expecting"),
    "false": (False, "a JSON schema"),
    "no number": ({"const": float("nan")}, "not JSON compliant"),
    "half a character": ('{"const": "\\ud800"}', "surrogates"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused_soon_and_the_compiler_goes_on(tiny: Tiny, name: str) -> None:
    schema, why = REFUSED[name]
    before = time.process_time()
    with pytest.raises(InvalidRequestError, match=why) as caught:
        tiny.compiler.compile(schema)
    assert time.process_time() - before < 1, "the thread that computes was held up"
    assert caught.value.details["field"] == "json_schema"
    assert len(caught.value.message) <= 900
    assert allowed(tiny, tiny.compiler.processor(tiny.compiler.compile({"type": "object"}), 0), []) == {"{"}


def test_a_recursive_schema_is_fine_where_it_can_end(tiny: Tiny) -> None:
    schema = {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}
    (tokens,) = generate(tiny, Asked("Once", 1, schema))
    assert set(tiny.tokenizer.decode(tokens)) <= set("[] \n\r\t")


def test_usual_schemas_are_compiled_without_another_process() -> None:
    assert not is_doubtful(schema_text({**PERSON, "description": "pattern " * 100}))
    assert is_doubtful(schema_text(SCHEMAS["format"]))
    assert "" == check(schema_text(SCHEMAS["format"]))


def test_a_compiled_schema_is_kept_and_the_oldest_goes_first(tiny: Tiny) -> None:
    compiler = SchemaCompiler(tiny.tokenizer, VOCABULARY, [END])
    first, second = compiler.compile({"const": 0}), compiler.compile({"const": 1})
    for n in range(2, GRAMMARS_MAX):
        compiler.compile({"const": n})
    assert first is compiler.compile('{ "const": 0 }')
    compiler.compile({"const": GRAMMARS_MAX})
    assert first is compiler.compile({"const": 0})
    assert second is not compiler.compile({"const": 1})


def test_a_model_that_cannot_be_held_is_told_so(tiny: Tiny) -> None:
    class Slow:
        _tokenizer = object()

    for tokenizer, ends, why in ((tiny.tokenizer, [], "no token that ends"), (Slow(), [1], "a fast tokenizer")):
        with pytest.raises(InvalidRequestError, match=why) as caught:
            SchemaCompiler(tokenizer, VOCABULARY, ends)
        assert caught.value.details["field"] == "json_schema"


def test_llguidance_is_imported_by_the_first_schema_only() -> None:
    code = "import sys, mlx_mesh_worker.engines.generate.schema; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
