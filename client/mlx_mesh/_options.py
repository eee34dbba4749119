"""The keywords that every call takes, checked once and for both kinds of client."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from mlx_mesh_wire import Flag, InvalidRequestError, Lane, TooLargeError, limits, pack_body
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_wire.body import Frame

DEFAULT_TIMEOUT_S = 60.0
TIMEOUT_MAX_S = limits.REMAINING_MAX_MS / 1000
WINDOW = 16
"""Stream credit: enough to hide a round trip, little enough that a slow reader holds few chunks."""

TEXTS_PER_REQUEST = 8
"""A long list of texts goes as several requests, so that all workers share it and short requests are not held up."""

CHARS_PER_REQUEST = 1024
CHARS_COUNTED_PER_TEXT = 1024
"""The same for long texts, of which an encoder reads the first few hundred tokens. About 0.1 s of work on one CPU core:
that little is computed again when a worker dies, and that briefly is a request at risk of a second, unrelated death.
"""

BODY_MAX_BYTES = limits.MESSAGE_MAX_BYTES - limits.HEADER_MAX_BYTES
BODY_MAX_FRAMES = limits.FRAMES_MAX - 1

LANES = dict(zip(LANE_NAMES, Lane, strict=True))


class Call(NamedTuple):
    """One request as the session takes it."""

    op: str
    model: str
    lane: int
    flags: int
    window: int
    affinity: bytes
    traceparent: str
    frames: Sequence[Frame]
    timeout_s: float


class Options(NamedTuple):
    """The checked keywords of a call."""

    model: str
    timeout_s: float
    lane: int
    flags: int
    affinity: bytes

    def call(self, op: str, frames: Sequence[Frame], window: int = 0) -> Call:
        """Return the request for an op and an encoded body.

        Raises:
            TooLargeError: the broker would not take the message; ZeroMQ would even end the connection.
        """
        size = sum(map(_nbytes, frames))
        if size > BODY_MAX_BYTES:
            raise TooLargeError(
                f"body has {size} bytes, allowed are {BODY_MAX_BYTES}",
                details={"field": "body", "limit": BODY_MAX_BYTES},
            )
        return Call(op, self.model, self.lane, self.flags, window, self.affinity, "", frames, self.timeout_s)


def options(**keywords: Any) -> Options:
    """Return the checked keywords of a call; most calls give the same as the one before.

    Raises:
        InvalidRequestError: naming the keyword, what was given and what is allowed.
    """
    try:
        return _checked(**keywords)
    except TypeError:  # what cannot be hashed is not allowed either, and is named
        return _checked.__wrapped__(**keywords)


@lru_cache(maxsize=256, typed=True)
def _checked(
    *,
    model: Any,
    timeout: Any,
    lane: Any,
    at_most_once: bool,
    wait_for_ready: bool,
    cache: bool = True,
    affinity: Any = None,
) -> Options:
    if not isinstance(lane, str) or lane not in LANES:
        raise _bad("lane", lane, ", ".join(LANES))
    model = "" if model is None else model
    if not _is_text(model) or len(model) > limits.MODEL_MAX_CHARS:
        raise _bad("model", model, f"a string of at most {limits.MODEL_MAX_CHARS} characters")
    for name, on in (("at_most_once", at_most_once), ("wait_for_ready", wait_for_ready), ("cache", cache)):
        if type(on) is not bool:
            raise _bad(name, on, "True or False")
    flags = (
        (Flag.AT_MOST_ONCE if at_most_once else 0)
        | (Flag.WAIT_FOR_READY if wait_for_ready else 0)
        | (0 if cache else Flag.FRESH)
    )
    return Options(model, check_timeout(timeout), int(LANES[lane]), flags, _affinity(affinity))


def check_timeout(timeout: Any) -> float:
    """Return the seconds that a call may take, if they are a time."""
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout <= TIMEOUT_MAX_S:
        raise _bad("timeout", timeout, f"seconds above 0 and up to {TIMEOUT_MAX_S:.0f}")
    return float(timeout)


def check_op(op: Any) -> str:
    """Return the op's name if it can be one."""
    if not _is_text(op) or not 1 <= len(op) <= limits.OP_MAX_CHARS:
        raise _bad("op", op, f"a string of 1 to {limits.OP_MAX_CHARS} characters")
    return op


def check_window(window: Any) -> int:
    """Return the stream window if it is one."""
    if type(window) is not int or not 1 <= window <= limits.WINDOW_MAX_CHUNKS:
        raise _bad("window", window, f"an integer from 1 to {limits.WINDOW_MAX_CHUNKS}")
    return window


def embed_bodies(texts: str | Sequence[str], normalize: bool | None) -> list[list[Frame]]:
    """Return the bodies of the requests that embed these texts, in order.

    Raises:
        InvalidRequestError: no texts, or one that is not a non-empty string of valid Unicode; details name its index.
    """
    given: Any = texts
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise _bad("texts", texts, "a string or a list of strings")
    if normalize is not None and type(normalize) is not bool:
        raise _bad("normalize", normalize, "True, False or None")
    every = [texts] if isinstance(texts, str) else list(texts)
    if not every:
        raise InvalidRequestError("texts is empty; give at least one text", details={"field": "texts"})
    for index, text in enumerate(every):
        _check_text(index, text)
    bodies: list[list[Frame]] = []
    batch: list[str] = []
    chars = 0
    for text in every:
        length = min(len(text), CHARS_COUNTED_PER_TEXT)
        if batch and (len(batch) == TEXTS_PER_REQUEST or chars + length > CHARS_PER_REQUEST):
            bodies.append(_embed_body(batch, normalize))
            batch, chars = [], 0
        batch.append(text)
        chars += length
    bodies.append(_embed_body(batch, normalize))
    return bodies


def _embed_body(texts: list[str], normalize: bool | None) -> list[Frame]:
    return pack_body({"texts": texts} if normalize is None else {"texts": texts, "normalize": normalize})


def _check_text(index: int, text: Any) -> None:
    where = {"field": "texts", "index": index}
    if not isinstance(text, str):
        raise InvalidRequestError(f"texts[{index}] is a {type(text).__name__}, must be a string", details=where)
    if not text:
        raise InvalidRequestError(f"texts[{index}] is empty", details=where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"texts[{index}] is not valid Unicode: {error}", details=where) from error


def _nbytes(frame: Frame) -> int:
    return frame.nbytes if type(frame) is memoryview else len(frame)


def _is_text(given: Any) -> TypeGuard[str]:
    """Whether it is a string that UTF-8 can carry; lone surrogates, as in odd file names, are not."""
    if not isinstance(given, str):
        return False
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True


def _affinity(key: Any) -> bytes:
    if key is None:
        return b""
    if isinstance(key, str):
        key = key.encode("utf-8", "surrogatepass")
    if not isinstance(key, bytes):
        raise _bad("affinity", key, "a string or bytes")
    return key if len(key) <= limits.AFFINITY_MAX_BYTES else hashlib.sha256(key).digest()


def _bad(field: str, given: Any, allowed: str) -> InvalidRequestError:
    shown = "NaN" if isinstance(given, float) and math.isnan(given) else repr(given)[:80]
    return InvalidRequestError(f"{field} is {shown}; allowed: {allowed}", details={"field": field})
