"""What a request may hold: each field by itself, what is said of a bad one, and how little it costs."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mesh_wire import InvalidRequestError, Tensor
from mlx_mesh_worker.engines.generate.request import MAX_TOKENS_DEFAULT, GenerateBody, Sampling, parse_body
from mlx_mesh_worker.engines.generate.schema_text import ANY_OBJECT

VOCABULARY = 512
TOOL_TURN: list[dict[str, Any]] = [
    {"role": "user", "content": "How warm is it in Ulm?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "warmth", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "name": "warmth", "content": "20"},
]


def generate(**fields: Any) -> GenerateBody:
    return parse_body("generate", {"prompt": "Once", **fields}, VOCABULARY)


def chat(*messages: Any, **fields: Any) -> GenerateBody:
    return parse_body("chat", {"messages": list(messages), **fields}, VOCABULARY)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_a_prompt_alone_gives_the_defaults() -> None:
    assert GenerateBody("Once", Sampling()) == generate()
    assert MAX_TOKENS_DEFAULT == generate().max_tokens


def test_everything_that_was_given_arrives() -> None:
    numbers = {"temperature": 1, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "seed": 2**53 - 1, "repetition_penalty": 1.1,
               "presence_penalty": -1, "frequency_penalty": 2.5}  # fmt: skip
    found = generate(
        **numbers, max_tokens=5, stop="end", stop_tokens=[3], logit_bias={"7": -100}, logprobs=True, top_logprobs=20,
        json_schema={"type": "integer"},
    )  # fmt: skip
    expected = GenerateBody(
        "Once", Sampling(**numbers, logit_bias={7: -100.0}), 5, ("end",), (3,), None, True, 20, '{"type":"integer"}'
    )
    assert expected == found
    assert type(found.sampling.temperature) is float


def test_nil_is_as_good_as_nothing_where_there_is_no_number() -> None:
    nothing = dict.fromkeys(("stop", "stop_tokens", "logit_bias", "logprobs", "json_schema"))
    assert generate() == generate(**nothing)
    assert chat(user("x")) == chat(user("x"), tools=None)


def test_a_schema_may_be_a_map_a_text_or_true() -> None:
    asked = {"type": "object", "properties": {"b": {}, "a": {"const": "é"}}}
    text = '{"type":"object","properties":{"b":{},"a":{"const":"é"}}}'
    assert text == generate(json_schema=asked).json_schema
    assert (
        text
        == generate(json_schema=' {"type": "object", "properties": {"b": {}, "a": {"const": "\\u00e9"}}}').json_schema
    )
    assert ANY_OBJECT == generate(json_schema=True).json_schema


def test_calls_of_tools_and_their_answers_are_passed_on_to_the_template() -> None:
    found = chat(*TOOL_TURN, tools=[{"type": "function", "function": {"name": "warmth"}}])
    assert found.prompt == [TOOL_TURN[0], {**TOOL_TURN[1], "content": ""}, TOOL_TURN[2]]
    assert found.tools == [{"type": "function", "function": {"name": "warmth"}}]


def test_text_parts_are_joined_and_the_request_is_left_as_it_was() -> None:
    message = user([{"type": "text", "text": "How "}, {"type": "text", "text": "warm?"}])
    assert [user("How warm?")] == chat(message).prompt
    assert isinstance(message["content"], list)


NAN, INF = float("nan"), float("inf")
NUMBERS = {
    "max_tokens": (0, -1, 2**20 + 1, 1.5, 1.0, "1", True, None, NAN, [1]),
    "temperature": (-0.1, 10.1, NAN, INF, -INF, "1", True, None, {}),
    "top_p": (-0.1, 1.1, NAN, "1", False),
    "min_p": (-0.1, 1.1, NAN, "1", False),
    "top_k": (-1, 2**20 + 1, 1.0, NAN, True),
    "seed": (-1, 2**53, 1.5, "7", True),
    "repetition_penalty": (-0.1, 10.1, INF),
    "presence_penalty": (-10.1, 10.1, INF),
    "frequency_penalty": (-10.1, 10.1, INF),
    "top_logprobs": (-1, 21, 1.0, True, 5),
}
OTHERS: list[tuple[str, Any, int | None, str]] = [
    # field, what is given, the index that is told, what the message says
    ("stop", 5, None, "a string, or a list of 16"),
    ("stop", ["a"] * 17, None, "a list of 17"),
    ("stop", ["a"] * 10_000, None, "a list of 10000"),
    ("stop", "", 0, "1 to 256 characters"),
    ("stop", ["a", "b" * 257], 1, "1 to 256 characters"),
    ("stop", ["a", b"b"], 1, "a bytes"),
    ("stop", {"a": 1}, None, "a map of 1"),
    ("stop_tokens", [1] * 65, None, "64 at most"),
    ("stop_tokens", 1, None, "a list of token ids"),
    ("stop_tokens", [1, VOCABULARY], 1, "from 0 to 511"),
    ("stop_tokens", [-1], 0, "from 0 to 511"),
    ("stop_tokens", [True], 0, "from 0 to 511"),
    ("logit_bias", {str(n): 0 for n in range(1025)}, None, "1024 token ids"),
    ("logit_bias", [1], None, "a map of 1024"),
    ("logit_bias", {"512": 1}, None, "from 0 to 511"),
    ("logit_bias", {"-1": 1}, None, "from 0 to 511"),
    ("logit_bias", {"٣": 1}, None, "from 0 to 511"),
    ("logit_bias", {"1" * 5000: 1}, None, "from 0 to 511"),
    ("logit_bias", {"1": NAN}, None, "-100 to 100"),
    ("logit_bias", {"1": 101}, None, "-100 to 100"),
    ("logit_bias", {"1": True}, None, "-100 to 100"),
    ("logprobs", 1, None, "true or false"),
    ("logprobs", "yes", None, "true or false"),
    ("json_schema", False, None, "or true"),
    ("json_schema", 7, None, "or true"),
    ("json_schema", [{}], None, "a list of 1"),
    ("json_schema", "true", None, "or true"),
    ("json_schema", "{" * 40_000, None, "32768 characters"),
    ("json_schema", "{", None, "Expecting"),
    ("json_schema", '{"a":' * 100_000, None, "32768 characters"),
    ("json_schema", '{"a":' * 6_000, None, "json_schema is"),
    ("json_schema", {"const": "a" * 40_000}, None, "32768 characters"),
    ("json_schema", {"enum": list(range(1_000_000))}, None, "32768 characters"),
    ("json_schema", {"const": b"x"}, None, "bytes is not JSON"),
    ("json_schema", {"const": INF}, None, "not JSON compliant"),
    ("json_schema", {"x-guidance": {}}, None, "x-guidance"),
    ("temprature", 1, None, "no field of this name"),
    ("k" * 2000, "v" * 2000, None, "no field of this name"),
    ("messages", [], None, "no field of this name"),
]
MESSAGES: list[tuple[Any, int | None, str]] = [
    ([], None, "1 to 4096"),
    ("hello", None, "1 to 4096"),
    (None, None, "missing or nil"),
    ([user("x")] * 4097, None, "a list of 4097"),
    ([user("x"), "y"], 1, "maps with a role"),
    ([user("x"), {"role": "wizard", "content": "y"}], 1, "'wizard'"),
    ([{"content": "y"}], 0, "system, user, assistant, tool"),
    ([{"role": ["user"], "content": "y"}], 0, "as role one of"),
    ([user(5)], 0, "as content a text"),
    ([user(None)], 0, "as content a text"),
    ([{"role": "user"}], 0, "missing or nil"),
    ([{"role": "assistant", "content": None}], 0, "missing or nil"),
    ([{"role": "assistant", "tool_calls": []}], 0, "missing or nil"),
    ([user(["y"])], 0, "as parts of the content"),
    ([user([{"type": "image_url", "image_url": {"url": "data:..."}}])], 0, "'image_url'; allowed: parts of the type"),
    ([user([{"type": "text"}])], 0, "a text as text of a part"),
    ([user([{"text": "y"}])], 0, 'the type "text" only'),
    ([user([{"type": "text", "text": ""}] * 1025)], 0, "a list of 1025"),
    ([{"role": "user", "content": "x", "tool_calls": [{}]}], 0, "only an assistant has"),
    ([{"role": "assistant", "content": "x", "tool_calls": {"id": 1}}], 0, "a list of maps"),
    ([{"role": "assistant", "content": "x", "tool_calls": ["a"]}], 0, "a list of maps"),
    ([{"role": "tool", "content": "x", "tool_call_id": 5}], 0, "a text as tool_call_id"),
    ([{"role": "tool", "content": "x", "name": {}}], 0, "a text as name"),
]


def refused(op: str, body: Any, field: str, index: int | None, says: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequestError) as caught:
        parse_body(op, body, VOCABULARY)
    assert time.process_time() - began < 0.2
    error = caught.value
    assert (field[:64], index) == (error.details["field"], error.details.get("index"))
    assert error.message.startswith(field[:64])
    assert says in error.message
    assert len(error.message) <= 900


@pytest.mark.parametrize(("field", "given"), [(f, v) for f, values in NUMBERS.items() for v in values], ids=str)
def test_a_bad_number_is_named_with_its_bounds(field: str, given: Any) -> None:
    refused("generate", {"prompt": "x", field: given}, field, None, "allowed: ")


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: str(case[:2])[:60])
def test_a_bad_field_is_named_with_what_is_allowed(case: tuple[str, Any, int | None, str]) -> None:
    field, given, index, says = case
    refused("generate", {"prompt": "x", field: given}, field, index, says)


@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: str(case[0])[:60])
def test_a_bad_message_is_named_by_its_index(case: tuple[Any, int | None, str]) -> None:
    given, index, says = case
    refused("chat", {"messages": given}, "messages", index, says)


@pytest.mark.parametrize("tools", [{}, "x", ["x"], [{}] * 1025], ids=["map", "text", "texts", "many"])
def test_tools_are_maps(tools: Any) -> None:
    refused("chat", {"messages": [user("x")], "tools": tools}, "tools", None, "1024 maps")


@pytest.mark.parametrize(
    ("given", "index"),
    [
        ("", None),
        ([], None),
        (None, None),
        ({}, None),
        (5, None),
        ([1, 512], 1),
        ([True], 0),
        ([1] * (2**20 + 1), None),
    ],
    ids=range(8),
)
def test_a_bad_prompt(given: Any, index: int | None) -> None:
    refused("generate", {"prompt": given}, "prompt", index, "allowed: ")


@pytest.mark.parametrize("body", ["Once", None, [1], 5, Tensor(b"", "uint8", (0,))], ids=str)
def test_a_body_is_a_map(body: Any) -> None:
    refused("generate", body, "body", None, "a map")


def test_the_likeliest_tokens_need_log_probabilities() -> None:
    refused("generate", {"prompt": "x", "top_logprobs": 3, "logprobs": False}, "top_logprobs", None, "logprobs is true")
    assert 3 == generate(logprobs=True, top_logprobs=3).top_logprobs


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
FIELDS = st.sampled_from(
    ["prompt", "messages", "tools", "stop", "stop_tokens", "logit_bias", "logprobs", "json_schema", *NUMBERS]
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]) | VALUES},
    optional={"content": st.text() | VALUES, "tool_calls": VALUES, "name": VALUES, "tool_call_id": VALUES},
)


@settings(deadline=None)
@given(st.sampled_from(["generate", "chat"]), VALUES | st.dictionaries(FIELDS, VALUES | st.lists(MESSAGE, max_size=3)))
def test_any_body_is_taken_or_refused_by_the_one_error(op: str, body: Any) -> None:
    try:
        found = parse_body(op, body, VOCABULARY)
    except InvalidRequestError as error:
        refusal = error
    else:
        assert isinstance(found.prompt, str | list)
        assert found.logprobs or not found.top_logprobs
        return
    assert refusal.details["field"] is not None
    assert len(refusal.message) <= 900
