"""Whatever a worker answers, a client makes vectors, text or an error of it that hold what they promise, or raises a
ProtocolError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlx_mesh._generation import GenerateResult, _Reading
from mlx_mesh._received import STATE_MAX_BYTES, TOKEN_BYTES, Received
from mlx_mesh._results import Embeddings
from mlx_mesh._session import _details, result_of
from mlx_mesh_wire import DecodeError, MeshError, ProtocolError, Tensor, error_from_wire, pack_body

BUFFERS = (b"\0\0\x80\x3f" * 4, bytes(24))


class Stream:
    """Stands for the stream behind a text."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.left = result is None
        self.moved = 0


def one(data: bytes) -> int:
    which, body = (data[:1] or b"\0")[0], data[1:]
    frames = [body, *BUFFERS[: which % 3]]
    received = Received()
    received.add(frames)
    state = received.state()
    assert state is None or (len(state) % TOKEN_BYTES == 0 and len(state) <= STATE_MAX_BYTES)
    error = error_from_wire("INTERNAL", "m", False, 0, _details(frames))
    assert isinstance(error, MeshError)
    assert isinstance(error.details, dict)
    try:
        value = result_of(frames)
    except DecodeError:
        return 1
    _vectors(value)
    _text(value)
    return 1


def _vectors(value: Any) -> None:
    try:
        vectors = Embeddings([value, value])
    except ProtocolError:
        return
    rows = vectors.tolist()
    assert len(rows) == len(vectors) == len(vectors.numpy())
    assert all(len(row) == vectors.dimension for row in rows)
    assert all(type(each) is int for each in vectors.truncated)
    if rows:
        assert list(map(repr, rows[-1])) == list(map(repr, vectors[-1]))
    assert repr(vectors)


def _text(value: Any) -> None:
    stream: Any = Stream(value)
    reading = _Reading()
    try:
        chunk = reading.chunk(value)
        assert isinstance(chunk.text, str)
        assert isinstance(chunk.tokens, list)
        reading.rest(value)
        assert isinstance(reading.result(stream), GenerateResult)
    except ProtocolError:
        return


def seeds() -> Iterator[bytes]:
    tensor = Tensor(BUFFERS[0], "float32", (2, 2))
    for value in (
        {"vectors": tensor, "tokens": [1, 2], "truncated": [0], "model": "m"},
        {"vectors": tensor},
        {"text": "a", "tokens": [1], "logprobs": [{"token": 1}]},
        {"text": "", "finish_reason": "stop", "usage": {"prompt": 1}, "timings": {"queue_ms": 1.0}, "model": "m"},
        "text",
    ):
        yield b"\2" + bytes(pack_body(value)[0])
