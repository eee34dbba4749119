"""Affinity keys are those of all client languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh._generation import chat_call, generate_call
from mlx_mesh_wire import InvalidRequestError

CASES = json.loads((Path(__file__).parents[2] / "protocol/vectors/affinity.json").read_text(encoding="utf-8"))

KEYWORDS: dict[str, Any] = {
    "model": None,
    "timeout": 1.0,
    "lane": "standard",
    "at_most_once": False,
    "wait_for_ready": False,
}


def key_of(asked: dict[str, Any]) -> str:
    if "prompt" in asked:
        return generate_call(asked["prompt"], {}, 16, **KEYWORDS).affinity.hex()
    return chat_call(asked["messages"], None, {}, 16, **KEYWORDS).affinity.hex()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_keys_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    assert case["key"] == key_of(case["asked"])


def test_tuples_are_lists() -> None:
    message = {"role": "user", "content": "Hello"}
    assert key_of({"prompt": [1, 2]}) == key_of({"prompt": (1, 2)})
    assert key_of({"messages": [message]}) == key_of({"messages": (message,)})


def test_what_is_no_prompt_is_left_to_the_worker_to_refuse() -> None:
    empty = key_of({"prompt": ""})
    assert empty == key_of({"prompt": 5}) == key_of({"messages": None}) == key_of({"messages": [5]})


def test_a_lone_surrogate_is_refused_as_anywhere_else() -> None:
    with pytest.raises(InvalidRequestError):
        generate_call("\ud800", {}, 16, **KEYWORDS)
