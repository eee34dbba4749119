"""What the simulations have reached, as a table: transitions, error codes, messages, events and actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_mesh_broker.core.actions import Log, ToClient, ToWorker, Unwatch, Watch
from mlx_mesh_broker.core.events import Event
from mlx_mesh_broker.core.lifecycle import TRANSITIONS
from mlx_mesh_wire.errors import ERROR_CLASSES
from mlx_mesh_wire.messages import TYPE_CODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ELSEWHERE: dict[str, str] = {
    "code UNAUTHORIZED": "needs keys, which the shells check: tests/broker",
    "code UNKNOWN_OP": "only an engine says so: tests/generate",
    "code INVALID_REQUEST": "only of bodies and states that the client never sends: tests/core, tests/embed",
    "code INTERNAL": "a defect, so an invariant says that nobody gets it",
    "message Bundle": "packed and unpacked by the shells: tests/wire",
    "message Command": "on the control socket, read by the shell: tests/broker",
    "message Events": "on the event socket, written by the shell: tests/broker",
    "event Revoked": "needs keys: tests/core",
}
"""What cannot be reached here, and where it is tested."""


def expected() -> Iterator[str]:
    """Yield the names of all that there is to reach."""
    for state, turns in TRANSITIONS.items():
        for turn in turns:
            yield f"turn {state.value}, {turn.value}"
    for code in ERROR_CLASSES:
        yield f"code {code}"
    for message in TYPE_CODES:
        yield f"message {message.__name__}"
    for event in Event.__args__:  # type: ignore[attr-defined]
        yield f"event {event.__name__}"
    for action in (ToClient, ToWorker, Watch, Unwatch, Log):
        yield f"action {action.__name__}"


def names(seen: Mapping[Any, int]) -> dict[str, int]:
    """Return the oracle's counts under the names of the table."""
    named: dict[str, int] = {}
    for key, count in seen.items():
        if isinstance(key, type):
            group = {"messages": "message", "events": "event", "actions": "action"}[key.__module__.rpartition(".")[2]]
            name = f"{group} {key.__name__}"
        elif key[0] == "turn":
            name = f"turn {key[1]}, {key[2]}"
        else:
            name = f"code {key[1]}"
        named[name] = named.get(name, 0) + count
    return named


def missing(reached: Mapping[str, int]) -> list[str]:
    """Return what has not been reached, and could have been."""
    return [name for name in expected() if not reached.get(name) and name not in ELSEWHERE]


def table(reached: Mapping[str, int]) -> str:
    """Return the table: a name and a count on each line, MISSING where there is none, or where that is tested."""
    every = [*expected(), *sorted(set(reached) - set(expected()))]
    width = max(map(len, every))
    lines = []
    for name in every:
        count = reached.get(name, 0)
        shown = f"{count:,}" if count else "MISSING"
        if name in ELSEWHERE:
            shown += f"  (not here: {ELSEWHERE[name]})"
        lines.append(f"{name:<{width}}  {shown:>13}")
    return "\n".join(lines)
