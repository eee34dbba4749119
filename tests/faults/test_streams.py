"""Texts over the deaths of what generates them: the same, whole and once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.llama import make_llama
from tests.faults.streams import run
from tests.live import live_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("how", [{}, {"broker": True}, {"hurry": True}], ids=["workers", "broker", "hurry"])
def test_streams_end_with_the_same_text_whatever_ends(tmp_path: Path, how: dict[str, bool]) -> None:
    model = make_llama(tmp_path / "tiny-llama", "tiny")
    with live_mesh() as live:
        outcome = asyncio.run(run(live, model, streams=16, kills=2, **how))
    assert (2, 0) == (outcome.kills, outcome.different)
    assert outcome.moved > 0
