"""A header frame is a message that is the same when it is written and read again, unknown, or a DecodeError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlx_mesh_wire import DecodeError, ProtocolError, decode_header, encode_header, limits
from mlx_mesh_wire.header import salvage_request_id

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"


def one(data: bytes) -> int:
    try:
        message = decode_header(data)
    except DecodeError:
        assert 0 <= salvage_request_id(data) <= limits.INTEGER_MAX
        return 1
    if message is not None:
        try:
            written = encode_header(message)
        except ProtocolError:
            assert len(data) > limits.HEADER_MAX_BYTES // 2  # a longer way to write the same could be over the limit
            return 1
        assert message == decode_header(written)
    return 1


def seeds() -> Iterator[bytes]:
    for vector in json.loads((VECTORS / "headers.json").read_text()):
        yield bytes.fromhex(vector["hex"])
