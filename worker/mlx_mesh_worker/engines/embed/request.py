"""Checks the body of an ``embed`` request. Imports no MLX."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from mlx_mesh_wire import InvalidRequestError, TooLargeError

TEXTS_MAX: Final = 4096
"""Texts of one request: their vectors (at 4 KB each) still fit into a message four times over."""

TEXT_MAX_CHARS: Final = 1024 * 1024
"""Far beyond what any encoder reads; longer texts would only be tokenised to be thrown away."""

KEY_SHOWN_CHARS: Final = 64
"""Of a key that is not known, so much is shown."""


class EmbedBody(NamedTuple):
    """A valid request: the texts, and whether to normalise (None: as the model's folder says)."""

    texts: list[str]
    normalize: bool | None


def parse_body(value: Any) -> EmbedBody:
    """Return the request in a body value.

    Raises:
        InvalidRequestError: details name the field and, for texts, the index.
        TooLargeError: too many texts, or one that is too long.
    """
    if not isinstance(value, dict):
        raise _bad("body", f"is a {type(value).__name__}, must be a map with texts")
    for key in value:
        if key not in ("texts", "normalize"):
            shown = key[:KEY_SHOWN_CHARS].encode(errors="backslashreplace").decode()
            raise _bad(shown, "is not a field of embed; allowed: texts, normalize")
    texts, normalize = value.get("texts"), value.get("normalize")
    if normalize is not None and not isinstance(normalize, bool):
        raise _bad("normalize", f"is a {type(normalize).__name__}, must be true or false")
    if not isinstance(texts, list):
        raise _bad("texts", f"is a {type(texts).__name__}, must be an array of strings")
    if not texts:
        raise _bad("texts", "is empty; at least one text is needed")
    if len(texts) > TEXTS_MAX:
        limit = {"field": "texts", "limit": TEXTS_MAX}
        raise TooLargeError(f"texts has {len(texts)} items, allowed are {TEXTS_MAX}", details=limit)
    for index, text in enumerate(texts):
        _check_text(index, text)
    return EmbedBody(texts, normalize)


def _check_text(index: int, text: Any) -> None:
    if not isinstance(text, str):
        raise _bad("texts", f"is a {type(text).__name__}, must be a string", index)
    if not text:
        raise _bad("texts", "is empty", index)
    if len(text) > TEXT_MAX_CHARS:
        limit = {"field": "texts", "index": index, "limit": TEXT_MAX_CHARS}
        raise TooLargeError(f"texts[{index}] has {len(text)} characters, allowed are {TEXT_MAX_CHARS}", details=limit)
    if text.isascii():
        return  # known without looking; encoding 64 MiB only to check them takes 40 ms
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad("texts", "is not valid UTF-8", index) from None


def _bad(field: str, what: str, index: int | None = None) -> InvalidRequestError:
    if index is None:
        return InvalidRequestError(f"{field} {what}", details={"field": field})
    return InvalidRequestError(f"{field}[{index}] {what}", details={"field": field, "index": index})
