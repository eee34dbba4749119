"""Refusals of requests: one form for all of them."""

from __future__ import annotations

from typing import Any, Final

from mlx_mesh_wire import InvalidRequestError, limits

SHOWN_CHARS: Final = 80
"""Of what was given; enough to recognise it by."""


def refusal(name: str, given: Any, allowed: str, index: int | None = None) -> InvalidRequestError:
    """Return the error that names the field, the index in a list, what was given, and what is allowed."""
    short = str(name)[: limits.NAME_MAX_CHARS]
    where: dict[str, Any] = {"field": short} if index is None else {"field": short, "index": index}
    place = short if index is None else f"{short}[{index}]"
    message = f"{place} is {_shown(given)}; allowed: {allowed}"
    return InvalidRequestError(message[: limits.ERROR_MESSAGE_MAX_CHARS], details=where)


def _shown(given: Any) -> str:
    """Return what was given in few characters, without looking at all of a long thing."""
    if given is None:
        return "missing or nil"
    if isinstance(given, list | dict):
        return f"a {'list' if isinstance(given, list) else 'map'} of {len(given)}"
    if isinstance(given, str | int | float):
        return repr((given if isinstance(given, str) else str(given))[:SHOWN_CHARS])
    return f"a {type(given).__name__}"
