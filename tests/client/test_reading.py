"""Text from an engine that is none of ours."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mesh import ProtocolError
from mlx_mesh._generation import GenerateResult, TextChunk, _Reading

ENDED = {"finish_reason": "stop", "usage": {"completion": 1}, "timings": {"queue_ms": 1.0}, "model": "m"}


class Stream:
    def __init__(self, result: Any) -> None:
        self.result = result
        self.moved = 2
        self.left = False


@pytest.mark.parametrize(
    "value", [5, "a", None, ["a"], {"text": 5}, {"tokens": "x"}, {"text": "a", "logprobs": {"a": 1}}]
)
def test_a_chunk_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError, match="chunk is not made of text"):
        _Reading().chunk(value)


def test_a_chunk_may_hold_no_text_yet() -> None:
    assert TextChunk("", []) == _Reading().chunk({})


@pytest.mark.parametrize("value", [5, {}, {**ENDED, "usage": None}, {**ENDED, "model": 5}, {"finish_reason": "stop"}])
def test_a_result_that_does_not_say_how_the_text_ended_is_refused(value: Any) -> None:
    stream: Any = Stream(value)
    with pytest.raises(ProtocolError, match="result is not made of finish_reason, usage"):
        _Reading().result(stream)


def test_a_result_says_how_the_text_ended() -> None:
    stream: Any = Stream(ENDED)
    assert GenerateResult("stop", {"completion": 1, "moved": 2}, {"queue_ms": 1.0}, "m") == _Reading().result(stream)
