"""What judges the trials is judged: each sort of wrong answer is seen as such."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from mlx_mesh import EngineError
from tests.faults.mixes.catalogue import MIXES, refusals
from tests.faults.mixes.load import GRACE_S, Client, Task
from tests.faults.mixes.questions import KINDS, Question, flaw, question
from tests.faults.mixes.stage import ran_twice
from tests.faults.mixes.tally import Tally
from tests.faults.mixes.trial import set_apart

DELIVERY = Path(__file__).parents[2] / "docs" / "delivery.md"


def test_every_mix_is_told_in_the_documents() -> None:
    section = DELIVERY.read_text(encoding="utf-8").partition("\n### Trials\n")[2]
    assert [*MIXES] == re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)


def asked(kind: str) -> Question:
    return question(kind, "n/1", random.Random(3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_answer_has_no_flaw(kind: str) -> None:
    each = asked(kind)
    chunks = [*each.chunks][: each.keep if each.keep >= 0 else None] if each.chunks is not None else []
    assert flaw(each, chunks, each.result) == ""


@pytest.mark.parametrize("kind", ["echo", "large", "digest", "once", "hasty"])
def test_another_nonce_or_other_bytes_are_wrong(kind: str) -> None:
    each = asked(kind)
    assert flaw(each, [], ["n/2", each.result[1]]).startswith("wrong")
    assert flaw(each, [], [each.result[0], each.result[1][:-1]]).startswith("wrong")


def test_chunks_that_are_missing_twice_there_or_out_of_order_are_seen() -> None:
    each = Question("tell", "tell", ["n", 3], ["n", 3], [["n", 0], ["n", 1], ["n", 2]])
    assert flaw(each, [["n", 0], ["n", 2]], each.result).startswith("wrong")
    assert flaw(each, [["n", 0], ["n", 2], ["n", 1]], each.result).startswith("wrong")
    assert flaw(each, [["n", 0], ["n", 1], ["n", 1], ["n", 2]], each.result).startswith("doubled")
    assert flaw(each, each.chunks or (), ["n", 2]).startswith("wrong")


def client(folder: Path) -> Client:
    return Client(Task("ipc:///nowhere", "sync", "c", 1, 1.0, str(folder)))


def test_a_call_that_ends_long_after_its_deadline_hung_and_leaves_the_stacks(tmp_path: Path) -> None:
    judge, each = client(tmp_path), asked("echo")
    began = judge.began(0, each) - each.timeout_s - GRACE_S - 1
    judge.ended(0, each, began, [], each.result)
    assert (1, 0) == (judge.tally.hung, judge.tally.wrong)
    assert "most recent call first" in next(tmp_path.glob("hang-*")).read_text()


def test_an_error_after_chunks_that_were_right_is_an_error_and_no_wrong_answer(tmp_path: Path) -> None:
    judge = client(tmp_path)
    each = Question("tell", "tell", ["n", 3], ["n", 3], [["n", 0], ["n", 1], ["n", 2]])
    judge.ended(0, each, judge.began(0, each), [["n", 0]], EngineError("it broke"))
    judge.ended(0, each, judge.began(0, each), [["n", 1]], EngineError("it broke"))
    assert 2 == judge.tally.errors["tell ENGINE_ERROR"]
    assert 1 == judge.tally.wrong


def test_work_at_most_once_that_was_begun_twice_is_seen(tmp_path: Path) -> None:
    assert ran_twice(tmp_path) == []
    (tmp_path / "ran").write_text("a/1\nb/1\na/1\n")
    assert ran_twice(tmp_path) == ["a/1"]


def apart(mix: str, calls: int, **failures: int) -> Tally:
    """Judge what was damaged in a run of so many calls."""
    errors = Counter({"echo INTERNAL": failures.pop("internal", 0)})
    tally = Tally(calls=Counter(echo=calls), errors=errors, words=["echo n/1: wrong"])
    vars(tally).update(failures)
    set_apart(MIXES[mix], tally)
    return tally


def test_a_damaged_answer_is_counted_apart_only_where_nothing_can_tell() -> None:
    blind = apart("corruption-without-keys", 500, wrong=100, doubled=100)
    assert (True, 200, []) == (blind.good, blind.faults["damaged answers"], blind.words)
    keyed = apart("corruption", 60_000, wrong=1)
    assert (False, 1, ["echo n/1: wrong"]) == (keyed.good, keyed.wrong, keyed.words)


def test_with_keys_few_calls_may_end_because_a_message_was_lost() -> None:
    one = apart("corruption", 500, internal=1)
    assert (True, 1) == (one.good, one.faults["lost messages"])
    assert not apart("corruption", 500, internal=2).good
    assert apart("corruption", 60_000, internal=7).good
    assert not apart("corruption", 60_000, internal=8).good


def test_with_keys_only_errors_that_a_lost_message_explains_are_counted_apart() -> None:
    errors = {"echo INTERNAL": 1, "visit UNAUTHORIZED": 1, "once WORKER_LOST": 1, "hasty DEADLINE_EXCEEDED": 5}
    assert {} == refusals(MIXES["corruption"], errors)
    assert {"echo WORKER_LOST": 1} == refusals(MIXES["corruption"], {**errors, "echo WORKER_LOST": 1})
    assert {"echo ENGINE_ERROR": 1} == refusals(MIXES["corruption"], {"echo ENGINE_ERROR": 1})
    assert {"echo INTERNAL": 1} == refusals(MIXES["cuts"], {"echo INTERNAL": 1})
    judged = Tally(calls=Counter(echo=500), errors=Counter(errors))
    set_apart(MIXES["corruption"], judged)
    assert 1 == judged.faults["lost messages"]
