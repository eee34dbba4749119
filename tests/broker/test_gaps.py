"""The longest gap of the broker's loop is shown for a minute at least, and for two at most."""

from __future__ import annotations

import pytest

from mlx_mesh_broker.gaps import WINDOW_S, Gaps


@pytest.mark.parametrize(
    ("asked", "shown"), [(1.0, 0.08), (WINDOW_S + 1, 0.08), (2 * WINDOW_S - 0.1, 0.08), (3 * WINDOW_S, 0.0)]
)
def test_the_longest_gap_is_shown_for_a_minute_and_then_forgotten(asked: float, shown: float) -> None:
    gaps = Gaps()
    for now, gap_s in ((0.1, 0.01), (0.5, 0.08), (0.6, 0.02)):
        gaps.note(now, gap_s)
    assert shown == gaps.longest_s(asked)


def test_a_gap_of_now_is_longer_than_one_of_the_minute_before() -> None:
    gaps = Gaps()
    gaps.note(1.0, 0.05)
    gaps.note(WINDOW_S + 1, 0.09)
    assert 0.09 == gaps.longest_s(WINDOW_S + 2)


def test_one_of_the_minute_before_is_shown_while_it_is_the_longest() -> None:
    gaps = Gaps()
    gaps.note(1.0, 0.05)
    gaps.note(WINDOW_S + 1, 0.01)
    assert 0.05 == gaps.longest_s(WINDOW_S + 2)
    gaps.note(2 * WINDOW_S + 2, 0.02)
    assert 0.02 == gaps.longest_s(2 * WINDOW_S + 3)
