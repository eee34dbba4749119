"""Several small messages as one ZeroMQ message, since each frame costs a microsecond at either end, whatever its size.

Nothing waits for a bundle to fill: it holds what happens to be there when its sender has done its round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import DecodeError
from mlx_mesh_wire.header import decode_header, encode_header
from mlx_mesh_wire.messages import Bundle, Cancel, Chunk, Credit, Error, Final, Job, Message, Request, Return

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlx_mesh_wire.body import Frame

Context = TypeVar("Context")

Mail = tuple[Message, "Sequence[Frame]"]
"""A message and the frames behind its header."""

_MOST, _BODY_MAX_BYTES = limits.BUNDLE_MAX_MESSAGES, limits.BUNDLED_MAX_BYTES

BUNDLED = frozenset({Request, Job, Chunk, Final, Error, Cancel, Credit, Return})
"""What comes in numbers. Greetings go alone, so that a peer of another version can read them."""


def bundles(mail: Sequence[Mail]) -> Iterator[tuple[Sequence[Mail], list[Frame]]]:
    """Yield the ZeroMQ messages that carry the mail in order, each with what it carries."""
    group: list[Mail] = []
    parts: list[Frame] = []
    for each in mail:
        message, frames = each
        header = encode_header(message)
        body = frames[0] if frames else b""
        fits = type(body) is bytes and len(body) <= _BODY_MAX_BYTES and (len(frames) == 1 if body else not frames)
        if fits and type(message) in BUNDLED:
            group.append(each)
            parts += (header, body)
            if len(group) == _MOST:
                yield group, _sealed(parts)
                group, parts = [], []
            continue
        if group:
            yield group, _sealed(parts)
            group, parts = [], []
        yield (each,), [header, *frames]
    if group:
        yield group, _sealed(parts)


def _sealed(parts: list[Frame]) -> list[Frame]:
    if len(parts) == 2:  # noqa: PLR2004  one header and one body
        return parts if parts[1] else parts[:1]
    return [encode_header(Bundle([len(part) for part in parts])), b"".join(parts)]


def deliver(
    context: Context,
    frames: Sequence[bytes],
    hear: Callable[[Context, Message, Sequence[bytes]], object],
    refuse: Callable[[Context, DecodeError, bytes], object],
) -> int:
    """Hand over what came as one ZeroMQ message, be it one message or many; return how many there were.

    Every message in and out comes by here: with a generator in place of the two functions, one that comes alone would
    take a tenth longer.

    Args:
        context: handed over with each, such as whom it is from.
        frames: the header and what is behind it.
        hear: is given each message of a type that is known, and the frames behind its header.
        refuse: is given what is wrong with a message that cannot be read, and its header; the others are heard.
    """
    try:
        message = decode_header(frames[0])
        inside = opened(message, frames[1:]) if type(message) is Bundle else None
    except DecodeError as error:
        refuse(context, error, frames[0])
        return 1
    if inside is None:
        if message is not None:
            hear(context, message, frames[1:])
        return 1
    for each in inside:
        try:
            message = decode_header(each[0])
            if type(message) is Bundle:
                raise DecodeError("a BUNDLE holds no other")
        except DecodeError as error:
            refuse(context, error, each[0])
        else:
            if message is not None:
                hear(context, message, each[1:])
    return len(inside)


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
