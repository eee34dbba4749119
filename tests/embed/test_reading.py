"""Large requests are tokenised in parts, so that small ones wait for little of it; what comes out is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mlx_mesh_wire import EngineError, InvalidRequestError
from mlx_mesh_worker.engines.embed.engine import READ_AT_ONCE_MAX_CHARS, READ_MAX_CHARS
from mlx_mesh_worker.engines.embed.tokens import Row, TextTokenizer
from tests.embed.driver import BULK, INTERACTIVE, STANDARD, Driver
from tests.embed.folder import ModelFolder

TEXT = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 " * 5
"""Longer than the 40 tokens that the small model reads."""

LARGE = [TEXT, "w1", TEXT[:40]] * 400


class Reading:
    """The tokenizer of an engine, and how many characters it has been given."""

    def __init__(self, driver: Driver) -> None:
        self.chars = 0
        self._tokenizer: TextTokenizer = driver.engine._tokenizer
        driver.engine._tokenizer = self  # type: ignore[assignment]

    def __call__(self, texts: Sequence[str], first: int = 0) -> list[Row]:
        self.chars += sum(map(len, texts))
        return self._tokenizer(texts, first)

    def during(self, act: Callable[[], object]) -> int:
        """Return the characters that are read while something is done."""
        before = self.chars
        act()
        return self.chars - before


@pytest.fixture
def reading(small: Driver) -> Reading:
    return Reading(small)


@pytest.mark.parametrize("lane", [INTERACTIVE, STANDARD])
def test_a_small_request_waits_for_one_part_of_a_large_one(small: Driver, reading: Reading, lane: int) -> None:
    large = small.job(LARGE, lane=BULK if lane == INTERACTIVE else STANDARD)
    small.admit(large)
    assert reading.during(small.turn) <= READ_AT_ONCE_MAX_CHARS + READ_MAX_CHARS
    for _ in range(3):
        tiny = small.job(["w5"], lane=lane)
        small.admit(tiny)
        ended: list[int] = []
        assert reading.during(lambda found=ended: found.extend(small.turn())) <= READ_MAX_CHARS + len("w5")
        if tiny.id not in ended:
            small.turn()  # every fifth turn is for the one that has waited longest
        assert tiny.id in small.answers
    assert large.id not in small.answers


@pytest.mark.slow
def test_large_requests_that_come_at_once_are_not_read_at_once(small: Driver, reading: Reading) -> None:
    texts = LARGE[: len(LARGE) // 6]
    small.admit(*[small.job(texts) for _ in range(9)])
    assert reading.during(small.turn) <= 9 * READ_AT_ONCE_MAX_CHARS + READ_MAX_CHARS
    while small.runner.busy:
        assert reading.during(small.turn) <= READ_MAX_CHARS
    assert 9 * sum(map(len, texts)) == reading.chars
    assert 9 == len(small.answers)


@pytest.mark.slow
def test_a_request_that_is_read_in_parts_has_the_vectors_counts_and_cuts_of_one_that_is_not(small: Driver) -> None:
    long, short, middle = (small.embed([text]) for text in LARGE[:3])
    answer = small.embed(LARGE)
    assert [40, 3, len(TEXT[:40].split()) + 2] * 400 == answer["tokens"]
    assert list(range(0, 1200, 3)) == answer["truncated"]
    assert ([0], [], []) == (long["truncated"], short["truncated"], middle["truncated"])
    for place, alone in enumerate((long, short, middle)):
        assert np.allclose(alone["vectors"][0], answer["vectors"][place::3], atol=1e-5)


def test_small_requests_are_read_at_once_and_share_a_batch(small: Driver, reading: Reading) -> None:
    jobs = [small.job(["w1 w2", "w3"]) for _ in range(4)]
    small.admit(*jobs)
    assert sorted(small.turn()) == [job.id for job in jobs]
    assert 1 == len(small.steps)


@pytest.mark.slow
def test_a_text_that_cannot_be_read_fails_its_request_by_its_index(make: Callable[..., ModelFolder]) -> None:
    driver = Driver(make(special=False).engine(), smallest_batches=True)
    bad, good = driver.job([*LARGE, " ", *LARGE]), driver.job(LARGE)
    error, answer = driver.run(bad, good)
    assert isinstance(error, InvalidRequestError)
    assert {"field": "texts", "index": len(LARGE)} == error.details
    assert f"texts[{len(LARGE)}] has nothing that the model reads" == error.message
    assert isinstance(answer, dict)
    assert len(LARGE) == len(answer["vectors"])
    assert [] == driver.reports, "it is the request's fault, not the engine's"


def test_a_cancelled_request_is_read_no_further(small: Driver, reading: Reading) -> None:
    large = small.job(LARGE)
    small.admit(large)
    small.turn()
    small.cancel(large)
    assert 0 == reading.during(lambda: small.run(small.job(["w5"]))) - len("w5")
    assert large.id not in small.answers


def test_a_tokenizer_that_breaks_on_a_request_fails_that_one_alone(
    small: Driver, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reading._tokenizer

    def breaks(texts: Sequence[str], first: int = 0) -> list[Row]:
        if first > 100:
            raise RuntimeError("no room")
        return real(texts, first)

    monkeypatch.setattr(reading, "_tokenizer", breaks)
    error, answer = small.run(small.job(LARGE), small.job(LARGE[:60]))
    assert isinstance(error, EngineError)
    assert "RuntimeError: no room" == error.message
    assert isinstance(answer, dict)


def test_a_job_is_marked_before_it_is_read_on(small: Driver, reading: Reading) -> None:
    """So that a text that kills the process is blamed on its own job."""
    large = small.job(LARGE, lane=BULK)
    small.admit(large)
    small.turn()
    assert [[large.id], [large.id]] == small.steps


def test_long_texts_are_read_one_at_a_time(make: Callable[..., ModelFolder]) -> None:
    """How much of a long one has to be read is only known when it is read."""
    driver = Driver(make().engine())
    counts: list[int] = []
    real = driver.engine._tokenizer

    def count(texts: Sequence[str], first: int = 0) -> list[Row]:
        counts.append(len(texts))
        return real(texts, first)

    driver.engine._tokenizer = count  # type: ignore[assignment]
    driver.embed(["w1 " * READ_MAX_CHARS] * 6)
    assert [1] * 6 == counts
