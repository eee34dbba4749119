"""From a failure to the few events that it needs, printed as a test."""

from __future__ import annotations

import subprocess
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sim.run import run_world
from tests.sim.scheduler import START_S
from tests.sim.swarm import Swarm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sim.plan import Event
    from tests.sim.run import Result

SHRINK_S = 60.0
"""How long a failure is shrunk at most."""

NAME_CHARS = 24
"""Of the message of a failure, what tells which promise it is; behind that come numbers, which may change."""


def same_failure(one: str | None, other: str | None) -> bool:
    """Whether two failures are of the same promise."""
    if one is None or other is None:
        return False
    return _name(one) == _name(other)


def _name(failure: str) -> str:
    kind, _, text = failure.partition(": ")
    letters = "".join(each for each in text if not each.isdigit())
    return kind + letters[:NAME_CHARS]


def shrink(
    drawn: Swarm, events: Sequence[Event], failure: Result, seconds: float = SHRINK_S
) -> tuple[Swarm, list[Event]]:
    """Return a swarm that lasts no longer than it has to, and a small part of the events that still fails likewise."""
    until = time.monotonic() + seconds

    def fails(swarm: Swarm, part: Sequence[Event]) -> bool:
        return same_failure(run_world(swarm, part).failure, failure.failure)

    part = [event for event in events if event.time <= failure.ended]
    brief = replace(drawn, duration_s=min(drawn.duration_s, failure.ended - START_S))
    if fails(brief, part):
        drawn, events = brief, part
    return drawn, least(list(events), lambda part: fails(drawn, part), until)


def least(events: list[Event], fails: Callable[[list[Event]], bool], until: float) -> list[Event]:
    """Remove events while what is left fails: all of a kind or of a client, half of them, quarters ... down to one."""
    for group in sorted({_group(event) for event in events}):
        part = [event for event in events if _group(event) != group]
        if time.monotonic() < until and fails(part):
            events = part
    size = (len(events) + 1) // 2
    while size and events:
        start = 0
        removed = False
        while start < len(events):
            if time.monotonic() >= until:
                return events
            part = events[:start] + events[start + size :]
            if fails(part):
                events = part
                removed = True
            else:
                start += size
        if size == 1 and not removed:
            break
        size = size if size == 1 else (size + 1) // 2
    return events


def _group(event: Event) -> str:
    """Return what events have in common that are tried together."""
    return f"{event.kind} {event.args[0]}" if event.kind in {"call", "cancel"} else event.kind


def as_test(drawn: Swarm, events: Sequence[Event], failure: str) -> str:
    """Return a test that fails as long as the promise is broken."""
    given = ",\n        ".join(
        f"{field.name}={getattr(drawn, field.name)!r}"
        for field in fields(drawn)
        if getattr(drawn, field.name) != field.default
    )
    lines = ",\n        ".join(f"Event({event.time!r}, {event.kind!r}, {event.args!r})" for event in events)
    return (
        f"# seed {drawn.seed} at {_commit()}: {failure}\n"
        "from tests.sim.plan import Event\n"
        "from tests.sim.run import replay\n"
        "from tests.sim.swarm import Swarm, WorkerPlan\n\n"
        'inf = float("inf")\n\n\n'
        f"def test_seed_{drawn.seed}() -> None:\n"
        f"    swarm = Swarm(\n        {given},\n    )\n"
        f"    events = [\n        {lines},\n    ]\n"
        "    replay(swarm, events)\n"
    )


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "an unknown commit"
