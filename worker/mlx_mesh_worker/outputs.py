"""What an engine returns, checked and encoded: nothing that it returns may end the connection or the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import EngineError, MeshError, TooLargeError, error_from_wire, limits, pack_body
from mlx_mesh_worker.engine import Chunk, Failure, RawResult, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_wire.body import Frame

ENDS: Final = (Result, RawResult, Failure)
"""The outputs with which a job ends."""

ALLOWED: Final = "allowed are Chunk, Result, RawResult and Failure"

BODY_MAX_BYTES: Final = limits.MESSAGE_MAX_BYTES - limits.HEADER_MAX_BYTES
"""Body and buffers together. ZeroMQ ends the connection over a larger frame; the broker drops a larger message."""

BODY_MAX_FRAMES: Final = limits.FRAMES_MAX - 1


def encoded(output: Any) -> Sequence[Frame]:
    """Return the body and buffers of a chunk or a result.

    Raises:
        TooLargeError: more bytes or buffers than a message holds; ``details`` has field and limit.
        EngineError: it is no output, or holds what cannot be sent.
    """
    kind = type(output)
    frames: Sequence[Frame]
    what = "chunk" if kind is Chunk else "result"
    try:
        if kind is RawResult:
            frames = output.frames
        elif kind is Result or kind is Chunk:
            frames = pack_body(output.value)
        else:
            raise EngineError(f"step() returned a {kind.__name__} for this job; {ALLOWED}")
        if len(frames) == 1 and type(frames[0]) is bytes and len(frames[0]) <= BODY_MAX_BYTES:
            return frames
        return _checked(frames, what)
    except EngineError:
        raise
    except TooLargeError as error:
        text = f"the {what} cannot be sent: {error.message}"
        raise TooLargeError(text, details={**error.details, "field": what}) from error
    except Exception as error:
        why = error.message if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
        raise EngineError(f"the {what} cannot be sent: {why}") from error


def _checked(frames: Sequence[Frame], what: str) -> list[Frame]:
    if not frames:
        raise EngineError(f"the {what} has no body")
    if len(frames) > BODY_MAX_FRAMES:
        text = f"it has {len(frames)} frames, allowed are {BODY_MAX_FRAMES}"
        raise TooLargeError(text, details={"limit": BODY_MAX_FRAMES})
    plain = [frame if type(frame) is bytes else _plain(frame) for frame in frames]
    size = sum(map(len, plain))
    if size > BODY_MAX_BYTES:
        raise TooLargeError(f"it has {size} bytes, allowed are {BODY_MAX_BYTES}", details={"limit": BODY_MAX_BYTES})
    return plain


def _plain(frame: Any) -> Frame:
    """Return a buffer of any shape as flat bytes, whose length is their number."""
    view = memoryview(frame)
    if not view.nbytes:
        return b""
    try:
        return view.cast("B")
    except TypeError:  # strided, or of a format that Python has no name for
        return view.tobytes()


def sendable(error: MeshError) -> tuple[MeshError, Sequence[Frame]]:
    """Return an error that a header can carry, and its details; such as cannot be sent are left out."""
    message: Any = error.message
    retryable: Any = error.retryable
    text = str(message)[: limits.ERROR_MESSAGE_MAX_CHARS].encode("utf-8", "replace").decode()
    wait: Any = error.retry_after_ms
    waits = type(wait) is int and 0 <= wait <= limits.REMAINING_MAX_MS
    if text != message or not waits or type(retryable) is not bool or len(error.code) > limits.CODE_MAX_CHARS:
        error = error_from_wire(error.code, text, bool(retryable), wait if waits else 0, error.details)
    if not error.details:
        return error, ()
    try:
        return error, _checked(pack_body(error.details), "details")
    except (MeshError, TypeError, ValueError):
        return error, ()
