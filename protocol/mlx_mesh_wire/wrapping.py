"""A whole message in one ZeroMQ frame, as it travels on connections with keys.

CURVE seals each frame by itself. Somebody on the way has no key and can change nothing inside of one, but can take
frames out of messages and join messages to each other, unnoticed. From a single frame nothing can be taken, and a
message of two is none.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_wire.body import Frame

_HEADS = tuple(Struct(f">B{count}I") for count in range(limits.FRAMES_MAX + 1))
"""By number of frames: that number, and the size of each in bytes."""


def wrap(frames: Sequence[Frame]) -> bytes:
    """Return one frame that holds the 1 to FRAMES_MAX frames of a message."""
    sizes = (frame.nbytes if type(frame) is memoryview else len(frame) for frame in frames)
    return b"".join((_HEADS[len(frames)].pack(len(frames), *sizes), *frames))


def unwrap(whole: bytes) -> list[bytes]:
    """Return the frames in a frame.

    Raises:
        DecodeError: their number is not allowed, or their sizes do not fit.
    """
    count = whole[0] if whole else 0
    if not 0 < count <= limits.FRAMES_MAX:
        raise DecodeError(f"a wrapped message has 1 to {limits.FRAMES_MAX} frames, this one {count}")
    head = _HEADS[count]
    if len(whole) < head.size:
        raise DecodeError(f"a wrapped message of {count} frames begins with {head.size} bytes, there are {len(whole)}")
    _, *sizes = head.unpack_from(whole)
    if head.size + sum(sizes) != len(whole):
        raise DecodeError(f"a wrapped message has {head.size + sum(sizes)} bytes by its sizes, there are {len(whole)}")
    frames, start = [], head.size
    for size in sizes:
        frames.append(whole[start : start + size])
        start += size
    return frames
