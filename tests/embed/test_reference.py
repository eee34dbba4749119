"""MiniLM gives the vectors that the original library gives, whatever a text is computed with."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.embed.driver import Driver, Vectors

pytestmark = pytest.mark.timeout(
    240
)  # long texts take seconds where MLX has no fast BLAS, many times that beside others

ROWS = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
TEXTS: list[str] = [row["text"] for row in ROWS]
REFERENCE = np.array([row["vector"] for row in ROWS], np.float32)
ROUNDING = 1e-5
"""What float32 may differ by when the same text is computed in another batch."""


@pytest.fixture
def alone(minilm: Driver) -> Vectors:
    """Each text in a request and a batch of its own."""
    return np.concatenate([minilm.vectors([text]) for text in TEXTS])


def test_the_reference_holds_twenty_vectors_of_length_one() -> None:
    assert (20, 384) == REFERENCE.shape
    assert np.allclose(1, np.linalg.norm(REFERENCE, axis=1), atol=1e-5)


@pytest.mark.slow
def test_every_text_has_the_vector_of_the_original_library(minilm: Driver) -> None:
    vectors = minilm.vectors(TEXTS)
    cosines = (vectors * REFERENCE).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() > 0.9999
    assert np.abs(vectors - REFERENCE).max() < ROUNDING


@pytest.mark.slow
def test_one_batch_of_all_lengths_and_one_text_at_a_time_agree(minilm: Driver, alone: Vectors) -> None:
    together = minilm.vectors(TEXTS)
    assert np.abs(together - alone).max() < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_text_has_the_same_vector_in_any_company_and_at_any_place(minilm: Driver, seed: int) -> None:
    """Texts are dealt out to several requests that are computed together."""
    order = list(range(len(TEXTS)))
    random.Random(seed).shuffle(order)
    hands = [order[start::3] for start in range(3)]
    answers = minilm.run(*(minilm.job([TEXTS[index] for index in hand]) for hand in hands))
    assert max(len(set(step)) for step in minilm.steps) > 1, "no batch held texts of two requests"
    for hand, answer in zip(hands, answers, strict=True):
        assert isinstance(answer, dict)
        assert np.abs(answer["vectors"] - REFERENCE[hand]).max() < ROUNDING


def test_results_come_in_the_order_of_the_texts_though_batches_are_sorted_by_length(minilm: Driver) -> None:
    chosen = [16, 0, 9, 3, 1]
    vectors = minilm.vectors([TEXTS[index] for index in chosen])
    assert chosen == [int((REFERENCE @ vector).argmax()) for vector in vectors]


def test_equal_texts_in_one_request_have_equal_vectors(minilm: Driver) -> None:
    first, other, last = minilm.vectors(["same", "a different text altogether", "same"])
    assert np.abs(first - last).max() < ROUNDING
    assert np.abs(first - other).max() > 0.01


def test_vectors_have_length_one_as_the_folder_says_unless_asked_otherwise(minilm: Driver) -> None:
    texts = TEXTS[:4]
    default, on, off = (minilm.vectors(texts, **each) for each in ({}, {"normalize": True}, {"normalize": False}))
    assert np.array_equal(default, on)
    assert np.allclose(1, np.linalg.norm(on, axis=1), atol=1e-6)
    lengths = np.linalg.norm(off, axis=1, keepdims=True)
    assert lengths.min() > 2
    assert np.allclose(on, off / lengths, atol=1e-6)


def test_requests_that_differ_in_normalisation_share_a_batch(minilm: Driver) -> None:
    jobs = [minilm.job({"texts": ["hello"], "normalize": each}) for each in (True, False)]
    on, off = minilm.run(*jobs)
    assert [[1, 2]] == minilm.steps
    assert isinstance(on, dict)
    assert isinstance(off, dict)
    assert np.isclose(1, np.linalg.norm(on["vectors"]), atol=1e-6)
    assert np.linalg.norm(off["vectors"]) > 2


@pytest.mark.slow
def test_a_result_says_tokens_model_and_which_texts_were_cut(minilm: Driver) -> None:
    """Known counts: [CLS] and [SEP] are two, a common word is one, MiniLM reads 256."""
    texts = ["hello", "word " * 254, "word " * 255, "hello world", "word " * 1000]
    result = minilm.embed(texts)
    assert [3, 256, 256, 4, 256] == result["tokens"]
    assert [2, 4] == result["truncated"]
    assert "sentence-transformers/all-MiniLM-L6-v2" == result["model"]
    assert (5, 384) == result["vectors"].shape


@pytest.mark.slow
def test_a_text_that_was_cut_has_the_vector_of_what_was_read(minilm: Driver) -> None:
    whole, cut = minilm.vectors(["word " * 254, "word " * 254 + "and something else"])
    assert np.abs(whole - cut).max() < ROUNDING


def test_white_space_alone_is_a_text_without_words(minilm: Driver) -> None:
    result = minilm.embed([" \t\n", "\u200b"])
    assert [2, 2] == result["tokens"]
    one, other = result["vectors"]
    assert np.allclose(one, other, atol=ROUNDING)
