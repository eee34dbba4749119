"""Which texts are computed together, and whose turn it is. No model, no MLX."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from mlx_mesh_wire import messages
from mlx_mesh_worker.engines.embed.batcher import (
    CANDIDATES,
    COST_OF_A_TEXT_CHARS,
    LARGE_JOBS_MAX,
    TURN_OF_THE_OLDEST,
    Batcher,
    Piece,
    Work,
    padded,
)
from mlx_mesh_worker.engines.embed.tokens import Row
from mlx_mesh_worker.job import Job
from tests.embed.driver import BULK, INTERACTIVE, STANDARD

_ids = count(1)


ALL = 10**9


def tokenize(texts: Sequence[str], first: int) -> list[Row]:
    """A tokenizer that makes a token of each character; an upper-case text counts as cut."""
    return [Row([0] * len(text), text.isupper()) for text in texts]


def work(*lengths: int, lane: int = STANDARD, alone: bool = False, read: int = ALL) -> Work:
    """Return a job with texts of these lengths, of which so many characters have been read."""
    flags = messages.Flag.ALONE if alone else 0
    job_id = next(_ids)
    message = messages.Job(job_id, 1, bytes(16), job_id, "embed", "", lane, 60_000, flags, 0, b"", "")
    made = Work(Job(message, [], 0.0), ["x" * length for length in lengths], normalize=True)
    made.read(tokenize, read)
    return made


def batcher(*works: Work) -> Batcher:
    made = Batcher()
    for each in works:
        made.add(each)
    return made


def take(batcher: Batcher, budget: int, read: int = ALL) -> list[Piece]:
    """Return the next batch; a job whose texts were all taken has ended."""
    first = batcher.turn()
    if first.unread:
        first.read(tokenize, read)
    batch = batcher.batch(first, budget)
    for piece in batch:
        piece.work.missing -= 1
        if not piece.work.missing:
            batcher.remove(piece.work.job)
    return batch


def lengths(batch: list[Piece]) -> list[int]:
    return [len(piece.ids) for piece in batch]


def owners(batch: list[Piece]) -> set[Work]:
    return {piece.work for piece in batch}


@pytest.mark.parametrize(("length", "width"), [(1, 8), (7, 8), (8, 8), (9, 16), (256, 256)])
def test_widths_are_multiples_of_eight(length: int, width: int) -> None:
    assert width == padded(length)


def test_a_batch_is_filled_up_to_the_budget_of_padded_tokens() -> None:
    made = batcher(work(*[9] * 10))
    assert [4, 4, 2] == [len(take(made, 64)) for _ in range(3)]
    assert 0 == len(made)


def test_a_text_that_is_over_the_budget_goes_by_itself() -> None:
    made = batcher(work(100, 100))
    assert [100] == lengths(take(made, 64))
    assert [100] == lengths(take(made, 64))


def test_texts_of_a_job_are_computed_from_the_longest_to_the_shortest() -> None:
    made = batcher(work(3, 40, 9, 17, 30))
    assert [[40], [30, 17], [9, 3]] == [lengths(take(made, 64)) for _ in range(3)]


def test_a_batch_takes_from_all_jobs_the_texts_that_are_closest_in_length() -> None:
    one, two = work(16, 3, 3), work(15, 14, 2)
    batch = take(batcher(one, two), 48)
    assert [16, 15, 14] == lengths(batch)
    assert {one, two} == owners(batch)


def test_nothing_longer_than_its_first_text_widens_a_batch() -> None:
    made = batcher(work(8), work(200, 7))
    assert [8, 7] == lengths(take(made, 512))
    assert [200] == lengths(take(made, 512))


def test_every_job_has_a_share_of_the_window_that_is_looked_at() -> None:
    large, small = work(*[8] * 2 * CANDIDATES), work(7)
    made = batcher(large, small)
    batch = take(made, 8 * CANDIDATES)
    assert {large, small} == owners(batch)


def test_a_higher_lane_goes_first_and_its_batch_holds_nothing_of_a_lower_one() -> None:
    bulk, standard, fast = work(8, 8, lane=BULK), work(8, lane=STANDARD), work(8, lane=INTERACTIVE)
    made = batcher(bulk, standard, fast)
    assert {fast} == owners(take(made, 512))
    assert {standard} == owners(take(made, 512))
    assert {bulk} == owners(take(made, 512))


def test_room_in_a_batch_of_a_lower_lane_goes_to_higher_ones_too() -> None:
    bulk = work(16, lane=BULK)
    made = batcher(bulk)
    fast = work(8, lane=INTERACTIVE)
    for _ in range(TURN_OF_THE_OLDEST - 1):
        made.add(work(8, lane=INTERACTIVE))
        take(made, 8)
    made.add(fast)
    assert {bulk, fast} == owners(take(made, 512))


def test_jobs_of_one_lane_take_turns_and_a_new_one_does_not_wait_for_those_before_it() -> None:
    first, second = work(*[8] * 9), work(*[8] * 9)
    made = batcher(first, second)
    assert [first, second, first] == [take(made, 8)[0].work for _ in range(3)]
    newcomer = work(8)
    made.add(newcomer)
    assert newcomer is take(made, 8)[0].work


def test_every_fifth_batch_is_for_the_job_that_has_waited_longest() -> None:
    bulk = work(*[8] * 4, lane=BULK)
    made = batcher(bulk, work(*[8] * 50, lane=INTERACTIVE))
    turns = [bulk in owners(take(made, 8)) for _ in range(20)]
    assert [5, 10, 15, 20] == [turn for turn, was_bulk in enumerate(turns, 1) if was_bulk]


def test_bulk_goes_on_though_new_interactive_jobs_never_stop_coming() -> None:
    """A newcomer has waited for less time than a bulk job that had its last turn some batches ago."""
    bulk = work(*[8] * 7, lane=BULK)
    made = batcher(bulk)
    turns = []
    for turn in range(1, 31):
        if len(made) == 1:
            made.add(work(8, lane=INTERACTIVE))
        if bulk in owners(take(made, 8)):
            turns.append(turn)
    assert [5, 10, 15, 20, 25, 30] == turns


def test_a_job_that_must_be_alone_goes_first_and_shares_no_batch() -> None:
    alone, others = work(8, 8, 8, alone=True), work(8, 8)
    made = batcher(others, alone)
    batches = [owners(take(made, 16)) for _ in range(3)]
    assert [{alone}, {alone}, {others}] == batches


def test_few_jobs_of_several_texts_share_a_batch_and_any_number_of_single_ones() -> None:
    made = batcher(*(work(8, 8) for _ in range(20)), *(work(8) for _ in range(20)))
    shared = owners(take(made, 8 * 30))
    assert LARGE_JOBS_MAX == sum(len(each.tokens) > 1 for each in shared)
    assert 20 == sum(len(each.tokens) == 1 for each in shared)


def test_a_large_job_that_must_be_alone_takes_turns_like_any_other() -> None:
    alone = work(*[8] * 40, alone=True)
    made = batcher(alone)
    take(made, 8)
    fast, peer = work(8, lane=INTERACTIVE), work(8)
    made.add(fast)
    made.add(peer)
    assert [fast, peer, alone] == [take(made, 8)[0].work for _ in range(3)]


def test_a_job_that_was_removed_is_not_computed_any_further() -> None:
    cancelled, other = work(*[8] * 4), work(*[8] * 4)
    made = batcher(cancelled, other)
    take(made, 16)
    assert cancelled is made.remove(cancelled.job)
    assert None is made.remove(cancelled.job)
    while len(made):
        assert {other} == owners(take(made, 16))


def test_texts_are_read_in_order_and_no_more_at_a_time_than_is_allowed() -> None:
    job = work(9, 3, 5, 50, 1, read=COST_OF_A_TEXT_CHARS * 2 + 12)
    assert ([9, 3], 3) == (job.tokens, len(job.unread))
    job.read(tokenize, 1)
    assert [9, 3, 5] == job.tokens, "one text is read whatever its length"
    job.read(tokenize, ALL)
    assert ([9, 3, 5, 50, 1], []) == (job.tokens, job.unread)
    assert [(4, 1), (1, 3), (2, 5), (0, 9), (3, 50)] == [(p.position, len(p.ids)) for p in job.pieces]


def test_texts_that_were_cut_keep_their_indices_though_they_are_read_in_parts() -> None:
    job = Work(work(1).job, ["a", "B", "c", "D", "E"], normalize=True)
    while job.unread:
        job.read(tokenize, 1)
    assert [1, 3, 4] == job.truncated


def test_the_index_of_the_first_text_is_told_to_the_tokenizer() -> None:
    told: list[tuple[int, int]] = []

    def record(texts: Sequence[str], first: int) -> list[Row]:
        told.append((first, len(texts)))
        return tokenize(texts, first)

    job = Work(work(1).job, ["x"] * 5, normalize=True)
    while job.unread:
        job.read(record, 2 * (1 + COST_OF_A_TEXT_CHARS))
    assert [(0, 2), (2, 2), (4, 1)] == told


def test_a_job_whose_turn_it_is_reads_on_and_those_that_wait_do_not() -> None:
    large, small = work(*[8] * 40, read=1), work(8)
    made = batcher(large, small)
    assert {large} == owners(take(made, 8, read=1))
    assert 2 == len(large.tokens)
    assert {small} == owners(take(made, 8, read=1))
    assert 2 == len(large.tokens)


def test_a_job_of_which_all_that_was_read_is_computed_still_has_its_turns() -> None:
    large = work(*[8] * 4, read=1)
    made = batcher(large, work(8, lane=INTERACTIVE))
    while len(made):
        take(made, 64, read=1)
    assert (0, [8, 8, 8, 8]) == (large.missing, large.tokens)
