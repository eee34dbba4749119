"""What a request may hold, and how each fault is told: the code, the field, the index, and no harm to others."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from mlx_mesh_wire import Tensor
from mlx_mesh_worker.engines.embed.request import TEXT_MAX_CHARS, TEXTS_MAX, EmbedBody, parse_body
from tests.embed.driver import Driver

MANY = TEXTS_MAX + 1
LONG = TEXT_MAX_CHARS + 1

FAULTS: list[tuple[str, Any, str, dict[str, Any], str]] = [
    ("body-nil", None, "INVALID_REQUEST", {"field": "body"}, "NoneType"),
    ("body-array", ("a", "b"), "INVALID_REQUEST", {"field": "body"}, "must be a map with texts"),
    ("body-string", "a", "INVALID_REQUEST", {"field": "body"}, "must be a map with texts"),
    ("texts-missing", {}, "INVALID_REQUEST", {"field": "texts"}, "must be an array"),
    ("texts-string", {"texts": "a"}, "INVALID_REQUEST", {"field": "texts"}, "is a str"),
    ("texts-map", {"texts": {"0": "a"}}, "INVALID_REQUEST", {"field": "texts"}, "is a dict"),
    ("texts-none", {"texts": []}, "INVALID_REQUEST", {"field": "texts"}, "at least one text"),
    ("text-empty", ["a", ""], "INVALID_REQUEST", {"field": "texts", "index": 1}, "texts[1] is empty"),
    ("text-nil", [None], "INVALID_REQUEST", {"field": "texts", "index": 0}, "is a NoneType"),
    ("text-number", ["a", "b", 3.5], "INVALID_REQUEST", {"field": "texts", "index": 2}, "is a float"),
    ("text-bytes", ["a", b"b"], "INVALID_REQUEST", {"field": "texts", "index": 1}, "is a bytes"),
    ("text-array", [["a"]], "INVALID_REQUEST", {"field": "texts", "index": 0}, "is a list"),
    ("text-tensor", [Tensor(b"1234", "float32", (1,))], "INVALID_REQUEST", {"field": "texts", "index": 0}, "Tensor"),
    ("normalize-1", {"texts": ["a"], "normalize": 1}, "INVALID_REQUEST", {"field": "normalize"}, "is a int"),
    ("normalize-str", {"texts": ["a"], "normalize": "no"}, "INVALID_REQUEST", {"field": "normalize"}, "is a str"),
    ("unknown", {"texts": ["a"], "normalise": True}, "INVALID_REQUEST", {"field": "normalise"}, "texts, normalize"),
    ("unknown-long", {"texts": ["a"], "k" * 999: 1}, "INVALID_REQUEST", {"field": "k" * 64}, "is not a field"),
    ("too-many", ["a"] * MANY, "TOO_LARGE", {"field": "texts", "limit": TEXTS_MAX}, "has 4097 items"),
    ("too-long", ["a", "b" * LONG], "TOO_LARGE", {"field": "texts", "index": 1, "limit": TEXT_MAX_CHARS}, "1048577"),
]


@pytest.mark.parametrize(("body", "code", "details", "text"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_is_told_by_code_field_and_index(
    small: Driver, body: Any, code: str, details: dict[str, Any], text: str
) -> None:
    error = small.error(body)
    assert (code, details, False) == (error.code, error.details, error.retryable)
    assert text in error.message
    assert [] == small.steps


def raw(*texts: bytes, key: bytes = b"texts") -> list[bytes]:
    """Return a body whose strings hold any bytes, as a peer that does not check them may send it."""
    packed = [bytes([0xD9, len(text)]) + text for text in texts]
    return [b"\x81" + bytes([0xA0 | len(key)]) + key + bytes([0x90 | len(texts)]) + b"".join(packed)]


@pytest.mark.parametrize("bad", [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_invalid_utf8_is_told_by_the_index_of_its_text(small: Driver, bad: bytes) -> None:
    """A broken byte, a cut sequence, a surrogate, an overlong form."""
    error = small.error(None, frames=raw(b"w1", bad, b"w2"))
    assert ("INVALID_REQUEST", {"field": "texts", "index": 1}) == (error.code, error.details)
    assert "texts[1] is not valid UTF-8" == error.message


def test_invalid_utf8_in_a_key_or_in_normalize_is_told_in_words_that_can_be_sent(small: Driver) -> None:
    error = small.error(None, frames=raw(b"w1", key=b"te\xff"))
    assert ("INVALID_REQUEST", {"field": "te\\udcff"}) == (error.code, error.details)
    error = small.error(None, frames=[b"\x82\xa5texts\x91\xa1a\xa9normalize\xa1\xff"])
    assert ("INVALID_REQUEST", {"field": "normalize"}) == (error.code, error.details)
    assert error.message.isascii()


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1"],
        [b"\x81\xa5texts\x91\xa1"],
        [msgpack.packb({"texts": ["a"]}) + b"\x00"],
        [msgpack.packb({1: ["a"]})],
        [msgpack.packb({"texts": [msgpack.Timestamp(1)]})],
    ],
    ids=["no-frame", "empty", "reserved", "cut", "trailing", "integer-key", "timestamp"],
)
def test_a_body_that_is_no_body_is_an_invalid_request(small: Driver, frames: list[bytes]) -> None:
    error = small.error(None, frames=frames)
    assert ("INVALID_REQUEST", {"field": "body"}) == (error.code, error.details)


def test_what_is_exactly_at_the_limit_is_taken() -> None:
    texts = ["a" * TEXT_MAX_CHARS, *["b"] * (TEXTS_MAX - 1)]
    assert EmbedBody(texts, None) == parse_body({"texts": texts})


def test_normalize_may_be_absent_or_nil() -> None:
    assert EmbedBody(["a"], None) == parse_body({"texts": ["a"]}) == parse_body({"texts": ["a"], "normalize": None})


def test_bad_requests_among_good_ones_cost_the_good_ones_nothing(small: Driver) -> None:
    alone = small.vectors(["w1 w2"])
    good = [small.job(["w1 w2"]) for _ in range(3)]
    bad = [small.job(["w1", ""]), small.job({"texts": ["w1"], "normalize": 0}), small.job([], frames=raw(b"\xff"))]
    small.steps.clear()
    answers = small.run(good[0], bad[0], good[1], bad[1], bad[2], good[2])
    assert [[job.id for job in good]] == small.steps
    codes = [None if isinstance(answer, dict) else answer.code for answer in answers]
    assert [None, "INVALID_REQUEST", None, "INVALID_REQUEST", "INVALID_REQUEST", None] == codes
    for job in good:
        answer = small.answers[job.id]
        assert isinstance(answer, dict)
        assert np.allclose(alone, answer["vectors"], atol=1e-5)
