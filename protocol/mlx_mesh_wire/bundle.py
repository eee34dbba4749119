"""Several small messages as one ZeroMQ message, since each frame costs a microsecond at either end, whatever its size.

Nothing waits for a bundle to fill: it holds what happens to be there when its sender has done its round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import DecodeError
from mlx_mesh_wire.header import encode_header
from mlx_mesh_wire.messages import Bundle, Cancel, Chunk, Credit, Error, Final, Job, Message, Request, Return

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_mesh_wire.body import Frame

Mail = tuple[Message, "Sequence[Frame]"]
"""A message and the frames behind its header."""

BUNDLED = frozenset({Request, Job, Chunk, Final, Error, Cancel, Credit, Return})
"""What comes in numbers. Greetings go alone, so that a peer of another version can read them."""


def bundles(mail: Sequence[Mail]) -> Iterator[tuple[Sequence[Mail], list[Frame]]]:
    """Yield the ZeroMQ messages that carry the mail in order, each with what it carries."""
    group: list[Mail] = []
    parts: list[Frame] = []
    for each in mail:
        message, frames = each
        header = encode_header(message)
        if _fits(message, frames):
            group.append(each)
            parts += (header, frames[0] if frames else b"")
            if len(group) < limits.BUNDLE_MAX_MESSAGES:
                continue
        if group:
            yield group, _sealed(parts)
            group, parts = [], []
        if not _fits(message, frames):
            yield (each,), [header, *frames]
    if group:
        yield group, _sealed(parts)


def _fits(message: Message, frames: Sequence[Frame]) -> bool:
    if type(message) not in BUNDLED or len(frames) > 1:
        return False
    return not frames or (type(frames[0]) is bytes and 0 < len(frames[0]) <= limits.BUNDLED_MAX_BYTES)


def _sealed(parts: list[Frame]) -> list[Frame]:
    if len(parts) == 2:  # noqa: PLR2004  one header and one body
        return parts if parts[1] else parts[:1]
    return [encode_header(Bundle([len(part) for part in parts])), b"".join(parts)]


def opened(bundle: Bundle, frames: Sequence[bytes]) -> list[list[bytes]]:
    """Return the messages in a bundle, each as its header and, if it has one, its body.

    Raises:
        DecodeError: the sizes are not those of the one frame behind the header.
    """
    sizes = bundle.sizes
    if len(frames) != 1 or len(sizes) % 2:
        raise DecodeError("a BUNDLE has one frame behind its header, and its sizes come in pairs")
    (payload,) = frames
    if sum(sizes) != len(payload):
        raise DecodeError(f"Bundle.sizes say {sum(sizes)} bytes, there are {len(payload)}")
    found = []
    start = 0
    pairs = iter(sizes)
    for header_size, body_size in zip(pairs, pairs, strict=True):
        body = start + header_size
        end = body + body_size
        found.append([payload[start:body], payload[body:end]] if body_size else [payload[start:body]])
        start = end
    return found
