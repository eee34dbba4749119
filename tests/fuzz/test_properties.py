"""Round trips, at random: whatever can be said means the same when it has been read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mesh_broker.zap import as_text
from mlx_mesh_wire import ERROR_CLASSES, DecodeError, MeshError, error_from_wire, limits, pack_body, unpack_body
from mlx_mesh_wire.guard_report import PAUSES, RUNGS, Footprint, GuardReport, Limit, Recycle, Troubled, parse_report
from mlx_mesh_worker.job import Job
from tests.fuzz import scripts
from tests.fuzz.tape import Tape
from tests.fuzz.targets import TARGETS, load

TEXT = st.text(max_size=20)
COUNT = st.integers(0, limits.INTEGER_MAX)
NUMBER = st.floats(-1e9, 1e9) | st.integers(0, 10**9)


def items(cls: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.builds(cls, **fields), max_size=3)


REPORTS = st.builds(
    GuardReport,
    pid=COUNT,
    uptime_s=NUMBER,
    pressure=NUMBER,
    rung=st.sampled_from(RUNGS),
    paused=st.sampled_from(PAUSES),
    paused_s=NUMBER,
    limits=items(Limit, source=TEXT, used=COUNT, limit=COUNT),
    signals=st.dictionaries(TEXT, NUMBER, max_size=3),
    workers=items(Footprint, name=TEXT, bytes=COUNT, baseline=COUNT, slope=NUMBER, leaking=st.booleans()),
    recycles=items(Recycle, name=TEXT, phase=TEXT, reason=TEXT, since_s=NUMBER),
    troubled=items(Troubled, name=TEXT, group=TEXT, state=TEXT, reason=TEXT, since_s=NUMBER, retry_s=NUMBER),
    counters=st.dictionaries(TEXT, COUNT, max_size=3),
    errors=st.dictionaries(TEXT, COUNT, max_size=3),
    recent=st.lists(TEXT, max_size=3),
)


@given(REPORTS)
@settings(max_examples=60, deadline=None)
def test_a_guards_report_arrives_as_it_was(report: GuardReport) -> None:
    assert report == parse_report(unpack_body(pack_body(report.as_map())))


@given(
    code=st.sampled_from(sorted(ERROR_CLASSES)) | TEXT,
    message=TEXT,
    retryable=st.booleans(),
    wait_ms=st.integers(0, limits.REMAINING_MAX_MS),
    details=st.dictionaries(TEXT, COUNT | TEXT, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_an_error_keeps_its_meaning(
    code: str, message: str, retryable: bool, wait_ms: int, details: dict[str, Any]
) -> None:
    error = error_from_wire(code, message, retryable, wait_ms, details)
    assert isinstance(error, MeshError)
    assert (retryable, wait_ms, details) == (error.retryable, error.retry_after_ms, error.details)
    assert (error.code, error.message) == (code, message) if code in ERROR_CLASSES else code in error.message


@given(st.lists(st.binary(max_size=64), max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_workers_job_refuses_a_body_as_the_codec_does(frames: list[bytes]) -> None:
    job = Job(scripts.message(Tape(b""), scripts.BROKER_SAYS_WORKER[:1]), frames, 1.0)
    try:
        value = unpack_body(frames)
    except DecodeError:
        with pytest.raises(MeshError) as raised:
            job.value()
        assert "INVALID_REQUEST" == raised.value.code
    else:
        assert repr(value) == repr(job.value())


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_keys_differ_as_text_if_they_differ(one: bytes, other: bytes) -> None:
    assert 40 == len(as_text(one))
    assert (one == other) == (as_text(one) == as_text(other))


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=200))
@settings(max_examples=25, deadline=None)
def test_targets_hold_for_anything(name: str, data: bytes) -> None:
    assert load(name)(data) >= 0


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_tape_says_what_a_peer_could_say(data: bytes) -> None:
    tape = Tape(data)
    while tape.left:
        message = scripts.message(tape, scripts.ANYTHING)
        assert type(message) in scripts.ANYTHING
        assert not tape.left or scripts.body(tape) is not None
