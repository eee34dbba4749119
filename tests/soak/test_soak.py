"""The verdict of a soak, on processes whose growth is known."""

from __future__ import annotations

import math
import random

import pytest

from tests.soak.report import POINTS, drawn
from tests.soak.sampling import Lives, Sample
from tests.soak.verdict import LIFE_MIN_SAMPLES, RSS_FLOOR, lines

MIB = 1 << 20


def life(seconds: int, *, rss_an_hour: float = 0.0, fds_an_hour: float = 0.0, noise: int = 0) -> Lives:
    """Return a process that warms up for a minute and then grows by so much an hour."""
    chance = random.Random(1)
    samples = []
    for at_s in range(seconds):
        warming = -20 * MIB * math.exp(-at_s / 20)
        rss = 60 * MIB + warming + rss_an_hour * at_s / 3600 + chance.uniform(-noise, noise)
        samples.append(Sample(float(at_s), int(rss), int(30 + fds_an_hour * at_s / 3600), 3))
    return {("broker", 1): samples}


def verdicts(lives: Lives) -> dict[str, str]:
    return {line.figure: line.verdict for line in lines(lives)}


def test_what_stays_as_it_is_once_it_is_warm_is_flat() -> None:
    assert {"rss": "FLAT", "fds": "FLAT", "threads": "FLAT"} == verdicts(life(1800, noise=2 * MIB))


def test_memory_that_grows_is_found_under_noise() -> None:
    lives = life(1800, rss_an_hour=30 * MIB, noise=2 * MIB)
    assert {"rss": "GROWING", "fds": "FLAT", "threads": "FLAT"} == verdicts(lives)
    (found,) = (line for line in lines(lives) if line.figure == "rss")
    assert found.an_hour == pytest.approx(30 * MIB, rel=0.1)
    assert found.allowed == RSS_FLOOR


def test_one_descriptor_lost_every_five_minutes_is_found_within_half_an_hour() -> None:
    assert "GROWING" == verdicts(life(1800, fds_an_hour=12))["fds"]


def test_memory_that_shrinks_is_flat() -> None:
    assert "FLAT" == verdicts(life(1800, rss_an_hour=-30 * MIB))["rss"]


def test_a_short_life_tells_nothing() -> None:
    assert {} == verdicts(life(LIFE_MIN_SAMPLES - 1, rss_an_hour=1e12))


def test_lives_of_one_name_are_one_line_with_a_gap() -> None:
    first = [Sample(float(second), 2**20, 10, 4) for second in range(120)]
    second = [each._replace(at_s=each.at_s + 300, rss=2**21) for each in first]
    drawings = drawn({("a", 1): first, ("b", 2): first, ("a", 3): second}, lambda sample: sample.rss / 2**20)
    assert ["a", "b"] == list(drawings)
    values = [value for _, value in drawings["a"]]
    assert [1.0, 2.0] == sorted({value for value in values if not math.isnan(value)})
    assert 1 == sum(map(math.isnan, values))
    assert drawings["a"][0][0] == 0.0
    assert drawings["a"][-1] == (419 / 60, 2.0)
    assert len(drawings["a"]) < 2 * POINTS
