"""What the fuzzer found, and what it found worth keeping, is replayed against each target."""

from __future__ import annotations

import pytest

from tests.fuzz.budget import Budget
from tests.fuzz.targets import TARGETS, corpus, load, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_each_file_of_a_corpus_is_refused_or_accepted_within_its_budget(name: str) -> None:
    budget = Budget(load(name))
    files = corpus(name)
    assert files, f"tests/fuzz/corpus/{name} is empty"
    for path in files:
        data = path.read_bytes()
        budget.run(data)
        budget.measure(data)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_hold_for_what_they_begin_with(name: str) -> None:
    one = load(name)
    for data in [b"", *seeds(name)]:
        one(data)
