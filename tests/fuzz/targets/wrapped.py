"""A wrapped message opens into frames that, wrapped again, are the same bytes, or is a DecodeError."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_mesh_wire import DecodeError, limits
from mlx_mesh_wire.wrapping import unwrap, wrap


def one(data: bytes) -> int:
    try:
        frames = unwrap(data)
    except DecodeError:
        return 1
    assert 0 < len(frames) <= limits.FRAMES_MAX
    assert data == wrap(frames)
    return 1


def seeds() -> Iterator[bytes]:
    for count in (1, 2, 8):
        yield wrap([bytes([place]) * place for place in range(count)])
