"""What holds for every series of batches, whatever arrives and whenever."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mesh_worker.engines.embed.batcher import TURN_OF_THE_OLDEST, Batcher, Piece, Work, padded
from tests.embed.driver import BULK, INTERACTIVE, STANDARD
from tests.embed.test_batcher import take, work

pytestmark = pytest.mark.slow

LANES = st.sampled_from([INTERACTIVE, STANDARD, BULK])
LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=12)
READ = st.integers(1, 300)
WORKS = st.builds(
    lambda lengths, lane, alone, read: work(*lengths, lane=lane, alone=alone, read=read),
    LENGTHS,
    LANES,
    st.booleans(),
    READ,
)
ARRIVALS = st.lists(st.lists(WORKS, max_size=3), min_size=1, max_size=8)
BUDGETS = st.integers(8, 256)
UNHURRIED = settings(deadline=None)


class Step(NamedTuple):
    """A batch, and the jobs that had texts left when it was made."""

    batch: list[Piece]
    waiting: list[Work]


def run(arrivals: list[list[Work]], budget: int, read: int = 40) -> list[Step]:
    """Add some jobs before each batch, then go on to the end; the job whose turn it is reads so many characters."""
    batcher = Batcher()
    held: list[Work] = []
    steps: list[Step] = []
    queue = list(arrivals)
    while queue or held:
        for each in queue.pop(0) if queue else []:
            batcher.add(each)
            held.append(each)
        if not held:
            continue
        waiting = list(held)
        steps.append(Step(take(batcher, budget, read), waiting))
        held = [each for each in held if each.missing]
    assert len(batcher) == 0
    return steps


@UNHURRIED
@given(st.lists(st.tuples(LENGTHS, LANES, READ), min_size=1, max_size=12), BUDGETS, READ)
def test_every_text_is_read_and_computed_once(jobs: list[tuple[list[int], int, int]], budget: int, read: int) -> None:
    works = [work(*lengths, lane=lane, read=at_once) for lengths, lane, at_once in jobs]
    steps = run([[each] for each in works], budget, read)
    computed = sorted((p.work.job.id, p.position, len(p.ids)) for step in steps for p in step.batch)
    expected = [(w.job.id, i, n) for w, (lengths, _, _) in zip(works, jobs, strict=True) for i, n in enumerate(lengths)]
    assert sorted(expected) == computed


@UNHURRIED
@given(ARRIVALS, BUDGETS)
def test_no_batch_is_over_the_budget_unless_it_is_one_text(arrivals: list[list[Work]], budget: int) -> None:
    for batch, _ in run(arrivals, budget):
        tokens = len(batch) * padded(max(len(piece.ids) for piece in batch))
        assert tokens <= budget or len(batch) == 1


@UNHURRIED
@given(ARRIVALS, BUDGETS)
def test_a_batch_holds_nothing_of_a_lower_lane_than_its_first_text(arrivals: list[list[Work]], budget: int) -> None:
    for batch, _ in run(arrivals, budget):
        assert max(piece.work.job.lane for piece in batch) == batch[0].work.job.lane


@UNHURRIED
@given(ARRIVALS, BUDGETS)
def test_a_job_that_must_be_alone_never_shares_a_batch(arrivals: list[list[Work]], budget: int) -> None:
    for batch, _ in run(arrivals, budget):
        assert len({piece.work for piece in batch}) == 1 or not any(piece.work.job.alone for piece in batch)


@UNHURRIED
@given(ARRIVALS, BUDGETS)
def test_the_highest_lane_that_waits_is_served_but_for_every_fifth_batch(
    arrivals: list[list[Work]], budget: int
) -> None:
    for turn, (batch, waiting) in enumerate(run(arrivals, budget), 1):
        if any(each.job.alone for each in waiting):
            assert batch[0].work.job.alone
        elif turn % TURN_OF_THE_OLDEST:
            assert batch[0].work.job.lane == min(each.job.lane for each in waiting)


@UNHURRIED
@given(ARRIVALS, st.lists(LANES, min_size=30, max_size=60))
def test_nobody_waits_longer_than_five_batches_for_each_that_has_waited_as_long(
    arrivals: list[list[Work]], others: list[int]
) -> None:
    """With the least budget, and a newcomer before every batch, each job has its turn all the same."""
    since: dict[Work, int] = {}
    due: dict[Work, int] = {}
    stream = [*arrivals, *[[work(8, lane=lane)] for lane in others]]
    alone = sum(each.missing for group in arrivals for each in group if each.job.alone)
    for turn, (batch, waiting) in enumerate(run(stream, budget=8)):
        for each in waiting:
            since.setdefault(each, turn)
        for each in waiting:
            if each not in due:
                ahead = sum(since[other] <= since[each] for other in waiting)
                due[each] = turn + TURN_OF_THE_OLDEST * ahead + alone
            assert turn < due[each]
        for each in {piece.work for piece in batch}:
            since[each] = turn + 1
            del due[each]
