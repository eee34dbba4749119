"""A body is a value that is the same when it is packed and read again, or a DecodeError; and an engine takes the value
as a request, or refuses it with an error that a header can carry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from mlx_mesh_wire import (
    DecodeError,
    InvalidRequestError,
    MeshError,
    encode_header,
    messages,
    pack_body,
    unpack_body,
)
from mlx_mesh_worker.engines.embed.request import parse_body as parse_embed
from mlx_mesh_worker.engines.generate.request import parse_body as parse_generate
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.outputs import sendable
from tests.fuzz.targets.header import VECTORS

BUFFERS = (b"", b"\0\0\x80\x3f", bytes(8), bytes(24))
VOCABULARY = 32_000
JOB = messages.Job(1, 1, b"s" * 16, 1, "op", "", 1, 1000, 0, 0, b"", "")


def one(data: bytes) -> int:
    which, body = data[:1], data[1:]
    frames = [body, *BUFFERS[: (which or b"\0")[0] % (len(BUFFERS) + 1)]]
    try:
        value = unpack_body(frames)
    except DecodeError:
        pass
    else:
        packed = pack_body(value)
        again = pack_body(unpack_body(packed))
        assert list(map(bytes, packed)) == list(map(bytes, again))  # NaN differs from itself, its bytes do not
    job = Job(JOB, frames, 1.0)
    for parse in (
        lambda: parse_embed(job.value(lenient_text=True)),
        lambda: parse_generate("generate", job.value(), VOCABULARY),
        lambda: parse_generate("chat", job.value(), VOCABULARY),
    ):
        try:
            parse()
        except MeshError as error:
            _check_refusal(error)
    return 1


def _check_refusal(error: MeshError) -> None:
    assert error.code in ("INVALID_REQUEST", "TOO_LARGE")
    error, details = sendable(error)
    encode_header(messages.Error(1, error.code, error.message, error.retryable, error.retry_after_ms))
    assert not error.details or (details and isinstance(unpack_body(details), dict))


def seeds() -> Iterator[bytes]:
    for vector in json.loads((VECTORS / "bodies.json").read_text()):
        yield b"\4" + bytes.fromhex(vector["hex"][0])
    for value in (
        {"texts": ["a", "b"], "normalize": True},
        {"prompt": "x", "max_tokens": 5, "temperature": 0.5, "stop": ["a"], "stop_tokens": [1], "seed": 1},
        {"prompt": [1, 2], "logit_bias": {"5": 1.0}, "logprobs": True, "top_logprobs": 3, "top_p": 0.5, "top_k": 1},
        {"prompt": "x", "json_schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        {"prompt": "x", "json_schema": '{"type": "object"}', "min_p": 0, "repetition_penalty": 1.1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}]}], "tools": [{"a": 1}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": "", "tool_call_id": "i"}]},
    ):
        try:
            yield b"\0" + bytes(pack_body(value)[0])
        except InvalidRequestError as error:
            raise AssertionError(value) from error
