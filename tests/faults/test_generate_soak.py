"""A worker that has generated hundreds of texts holds no more than after the first ones."""

from __future__ import annotations

import pytest

from tests.faults.generate_soak import growth, run


@pytest.mark.trial
def test_what_a_worker_holds_does_not_grow_with_the_texts_it_generates() -> None:
    active, rss = growth(run(600, parts=3))
    assert active < 0.1
    assert rss < 0.1
