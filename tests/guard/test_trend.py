"""What is a leak and what is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import linear_regression

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mesh_worker.guard.trend import Trend

MIB = 1 << 20
UNHURRIED = settings(deadline=None, max_examples=50)
BASELINES = st.integers(20 * MIB, 64_000 * MIB)
SEEDS = st.integers(0, 2**32)


def threshold(baseline: int) -> float:
    """Return the growth that a leak has at least."""
    return max(16 * MIB, 0.05 * baseline)


def watch(trend: Trend, seconds: int, taken: Callable[[int], float], start: int = 0) -> list[int]:
    """Add a sample each second, and return when it was called a leak."""
    found = []
    for second in range(start, start + seconds):
        trend.add(float(second), int(taken(second)))
        if trend.leaking(float(second)):
            found.append(second)
    return found


def test_the_baseline_is_the_least_of_the_first_ten_seconds() -> None:
    trend = Trend()
    assert 0 == trend.baseline
    for second, taken in enumerate([500, 400, 300, 450, 450, 450, 450, 450, 450, 450, 200]):
        trend.add(1000.0 + second, taken)
    assert 300 == trend.baseline


def test_a_trend_that_is_asked_before_it_was_told_anything_begins_with_the_first_sample() -> None:
    trend = Trend()
    assert (False, 0.0) == (trend.leaking(5000.0), trend.slope)
    assert [5070] == watch(trend, 71, lambda second: 100 * MIB + (second - 5000) * MIB, start=5000)[-1:]


@pytest.mark.slow
@UNHURRIED
@given(BASELINES, st.lists(st.floats(0, 1), min_size=7, max_size=70))
def test_noise_of_less_than_half_of_what_a_leak_is_is_never_one(baseline: int, noise: list[float]) -> None:
    """Whatever its shape: each number is how much more is held all through a bucket."""
    height = threshold(baseline) / 2
    assert [] == watch(Trend(), 10 * len(noise), lambda second: baseline + height * noise[second // 10])


@pytest.mark.slow
@UNHURRIED
@given(BASELINES, st.floats(0, 2), SEEDS)
def test_batches_that_come_and_go_are_never_a_leak(baseline: int, height: float, seed: int) -> None:
    """They may take more than all the rest, as long as there is a quiet moment in every bucket."""
    dice = random.Random(seed)

    def taken(second: int) -> float:
        return baseline * (1 + (0 if second % 10 == seed % 10 else height * dice.random()))

    assert [] == watch(Trend(), 900, taken)


@pytest.mark.slow
@UNHURRIED
@given(
    BASELINES,
    st.floats(0.05, 20),
    st.lists(st.integers(0, 900), min_size=1, max_size=2),
    SEEDS,
)
def test_one_step_or_two_are_never_a_leak(baseline: int, height: float, steps: list[int], seed: int) -> None:
    """A model that is loaded on demand, and the first long prompt."""
    dice = random.Random(seed)

    def taken(second: int) -> float:
        return baseline * (1 + height * sum(second >= step for step in steps) + 0.0005 * dice.random())

    assert [] == watch(Trend(), 1000, taken)


@pytest.mark.slow
@UNHURRIED
@given(BASELINES, st.sampled_from([1, 2, 10]), st.floats(0.5, 20), SEEDS)
def test_a_steady_ramp_is_found_as_soon_as_there_is_history(
    baseline: int, bucket: int, speed: float, seed: int
) -> None:
    """Six buckets, of which the growth is seen in five steps, here by 2.5 to 100 times what a leak is at least."""
    dice = random.Random(seed)
    step = speed * threshold(baseline)
    trend = Trend(bucket * 60, bucket, bucket * 6)
    found = watch(trend, bucket * 30, lambda second: baseline + step * (second / bucket + 0.2 * dice.random()))
    assert list(range(bucket * 6, bucket * 30)) == found


def test_a_fast_leak_is_found_within_fifteen_seconds_by_short_buckets() -> None:
    dice = random.Random(4)
    trend = Trend(window_s=30, bucket_s=1, history_s=10)
    first = watch(trend, 30, lambda second: 400 * MIB + 20 * MIB * (second + 0.3 * dice.random()))[0]
    assert 10 <= first <= 15


def test_a_small_process_that_grows_by_a_few_megabytes_does_not_leak() -> None:
    trend = Trend()
    assert [] == watch(trend, 700, lambda second: 30 * MIB + second * 20_000)
    assert pytest.approx(20_000, rel=0.01) == trend.slope


def test_one_quiet_moment_in_fifty_seconds_is_enough_for_the_slope_of_a_full_window() -> None:
    dice = random.Random(5)
    trend = Trend()
    watch(trend, 600, lambda second: 1024 * MIB * (1 + (dice.random() if second % 50 else 0)))
    assert 0 == trend.slope


def test_a_slow_leak_is_found_in_the_end() -> None:
    """100 KB/s on 1 GiB: 5 % are there after nine minutes."""
    found = watch(Trend(), 660, lambda second: 1024 * MIB + second * 100_000)
    assert 500 < found[0] < 640


def test_a_process_that_has_stopped_growing_leaks_no_more() -> None:
    found = watch(Trend(), 1500, lambda second: 1024 * MIB + min(second, 300) * MIB)
    assert 300 in found
    assert found[-1] < 900


@pytest.mark.slow
@UNHURRIED
@given(BASELINES, st.floats(-0.002, 0.01), st.floats(0, 0.2), SEEDS)
def test_the_slope_is_that_of_the_ramp(baseline: int, share: float, noise: float, seed: int) -> None:
    """Points are 50 s apart. More than half of the pairs are four or more apart, so the median is off by no more."""
    dice = random.Random(seed)
    per_second = share * baseline / 2
    trend = Trend()
    watch(trend, 610, lambda second: baseline * 2 + per_second * second + noise * baseline * dice.random())
    assert pytest.approx(per_second, abs=noise * baseline / 200 + 1) == trend.slope


def test_an_early_step_bends_the_slope_far_less_than_a_line_of_least_squares() -> None:
    taken = [1024.0 * MIB + (200 * MIB if second > 120 else 0) for second in range(600)]
    trend = Trend()
    watch(trend, 600, taken.__getitem__)
    assert linear_regression(range(600), taken).slope > 0.3 * MIB
    assert 0 == trend.slope


def test_it_remembers_no_more_than_its_window() -> None:
    trend = Trend()
    watch(trend, 10_000, lambda second: 1024 * MIB + second)
    assert 60 == len(trend._points)


def test_what_was_seen_before_a_long_gap_is_forgotten() -> None:
    trend = Trend()
    assert watch(trend, 200, lambda second: 100 * MIB + second * MIB)
    assert trend.leaking(205.0)
    assert not trend.leaking(1000.0)
    assert 0.0 == trend.slope
    assert [] == watch(trend, 50, lambda second: 100 * MIB + second * MIB, start=1000)
