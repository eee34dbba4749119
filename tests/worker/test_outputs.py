"""What an engine returns, good and bad, and what leaves the worker of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from mlx_mesh_wire import InvalidRequestError, Tensor, decode_header, encode_header, messages, unpack_body
from mlx_mesh_worker.engine import Chunk, Engine, Failure, RawResult, Result
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Admit, Piece
from tests.worker.bench import Bench, job, values


class Stream(Engine):
    """Returns for each job what the test gives it, once."""

    def __init__(self, **outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs
        self.jobs: list[Job] = []
        self.cancelled: list[int] = []

    def admit(self, job: Job) -> None:
        self.jobs.append(job)

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job.id)
        self.jobs.remove(job)

    def step(self) -> Sequence[Any]:
        self.mark(self.jobs)
        return [self.outputs[job.value()](job) for job in self.jobs]


class Bare(NamedTuple):
    job: Job


BAD = {
    "a set": lambda job: Chunk(job, {1, 2}),
    "no output": Bare,
    "a raw result of text": lambda job: RawResult(job, ["text"]),  # type: ignore[list-item]
    "a raw result of nothing": lambda job: RawResult(job, []),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_an_output_that_cannot_be_sent_fails_its_job_alone(bad: Any) -> None:
    engine = Stream(bad=bad, good=lambda job: Chunk(job, "fine"))
    outcomes = Bench(engine).turn(Admit(job("bad", 1, window=8)), Admit(job("good", 2, window=8)))
    assert values(outcomes) == ["ENGINE_ERROR"]
    assert [unpack_body(outcome.frames) for outcome in outcomes if isinstance(outcome, Piece)] == ["fine"]


def test_the_engine_is_told_to_forget_a_job_that_ended_by_its_chunk() -> None:
    engine = Stream(bad=lambda job: Chunk(job, {1, 2}))
    Bench(engine).turn(Admit(job("bad", 1, window=8)))
    assert engine.cancelled == [1]


@pytest.mark.parametrize("outputs", [None, ["HELLO"], [None], 7], ids=["none", "bare", "nones", "number"])
def test_outputs_of_no_job_fail_the_jobs_of_the_step_and_the_worker_goes_on(outputs: Any) -> None:
    class Wrong(Stream):
        def step(self) -> Sequence[Any]:
            self.mark(self.jobs)
            return outputs  # type: ignore[no-any-return]

    bench = Bench(Wrong())
    assert values(bench.turn(Admit(job("a", 1)))) == ["ENGINE_ERROR"]
    assert not bench.runner.busy


MIB = 2**20
TOO_LARGE = {
    "one frame": (lambda job: RawResult(job, [bytes(64 * MIB)]), 64 * MIB - 4096),
    "one value": (lambda job: Result(job, bytes(64 * MIB)), 64 * MIB - 4096),
    "frames together": (lambda job: RawResult(job, [b"", *[bytes(16 * MIB)] * 4]), 64 * MIB - 4096),
    "tensors together": (
        lambda job: Result(job, [Tensor(memoryview(bytes(22 * MIB)).cast("f"), "float32", (22 * MIB // 4,))] * 3),
        64 * MIB - 4096,
    ),
    "frames": (lambda job: RawResult(job, [b""] * 8), 7),
    "tensors": (lambda job: Result(job, [Tensor(b"", "bool", (0,))] * 7), 6),
}


@pytest.mark.parametrize(("large", "limit"), TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_a_result_over_a_limit_of_the_protocol_is_answered_with_the_limit(large: Any, limit: int) -> None:
    (done,) = Bench(Stream(large=large)).turn(Admit(job("large")))
    assert done.error.code == "TOO_LARGE"
    assert unpack_body(done.frames) == {"field": "result", "limit": limit}
    assert str(limit) in done.error.message


def test_a_chunk_over_a_limit_ends_its_stream() -> None:
    engine = Stream(large=lambda job: Chunk(job, bytes(64 * MIB)))
    (done,) = Bench(engine).turn(Admit(job("large", window=8)))
    assert (done.error.code, unpack_body(done.frames)["field"]) == ("TOO_LARGE", "chunk")
    assert engine.cancelled == [1]


def test_buffers_of_any_shape_leave_as_flat_bytes() -> None:
    grid = memoryview(bytes(24)).cast("f", (2, 3))
    empty, strided = memoryview(b"").cast("f"), memoryview(b"abcd")[::2]
    (done,) = Bench(Stream(x=lambda job: RawResult(job, [b"", grid, empty, strided]))).turn(Admit(job("x")))
    assert [bytes(frame) for frame in done.frames] == [b"", bytes(24), b"", b"ac"]
    assert [len(frame) for frame in done.frames] == [0, 24, 0, 2]


class OddError(InvalidRequestError):
    code = "A_CODE_OF_MY_OWN_THAT_IS_LONGER_THAN_ANY"


ODD = {
    "details": (InvalidRequestError("text", details={"x": {1, 2}}), "INVALID_REQUEST", "text"),
    "large details": (InvalidRequestError("text", details={"x": bytes(64 * MIB)}), "INVALID_REQUEST", "text"),
    "surrogates": (InvalidRequestError("a\ud800"), "INVALID_REQUEST", "a?"),
    "a number": (InvalidRequestError(7), "INVALID_REQUEST", "7"),  # type: ignore[arg-type]
    "waiting": (InvalidRequestError("text", retry_after_ms=-1), "INVALID_REQUEST", "text"),
    "its code": (OddError("text"), "INTERNAL", f"(unknown code {OddError.code}) text"),
    "no exception": ("text", "ENGINE_ERROR", "the engine gave 'text' instead of an error"),
}


@pytest.mark.parametrize(("error", "code", "message"), ODD.values(), ids=ODD.keys())
def test_an_error_with_what_no_header_carries_is_sent_without_that(error: Any, code: str, message: str) -> None:
    (done,) = Bench(Stream(x=lambda job: Failure(job, error))).turn(Admit(job("x")))
    assert (done.error.code, done.error.message, done.frames) == (code, message, ())
    header = messages.Error(1, done.error.code, done.error.message, done.error.retryable, done.error.retry_after_ms)
    assert decode_header(encode_header(header)) == header
