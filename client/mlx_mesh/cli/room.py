"""Whether more workers fit into memory, by what the guard reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_mesh.cli.output import count
from mlx_mesh.cli.table import size

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARE_MAX = 0.85
"""Of a limit: where a guard with its usual settings begins to hold work back."""


class Refusal(NamedTuple):
    """Why so many more do not fit, and how many do."""

    text: str
    room: int


def refusal(limits: Sequence[dict[str, Any]], footprint: int, added: int) -> Refusal | None:
    """Return why ``added`` more workers do not fit, None if they do.

    Args:
        limits: of the guard's report.
        footprint: bytes that each of them will take.
        added: how many.
    """
    rooms = [(_room(limit, footprint), limit) for limit in limits]
    if not rooms:
        return None
    room, limit = min(rooms, key=lambda pair: pair[0])
    if room >= added:
        return None
    workers = f"{count(added, 'more worker')} of {size(footprint)}"
    taken = f"from {size(limit['used'])} to {size(limit['used'] + added * footprint)} of {size(limit['limit'])}"
    fits = f"{room:,} more would fit" if room else "no more fit"
    return Refusal(f"{workers} would take {limit['source']} {taken}, above {SHARE_MAX:.0%}; {fits}", room)


def _room(limit: dict[str, Any], footprint: int) -> int:
    left = SHARE_MAX * limit["limit"] - limit["used"]
    return max(0, int(left / max(footprint, 1)))
