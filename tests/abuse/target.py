"""What is attacked, and how an attack says what it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import NamedTuple


class Target(NamedTuple):
    """Where a broker can be reached, and until when (``time.monotonic()``) it is to be attacked, once that is known."""

    tcp: str
    ipc: str
    control: str
    events: str
    metrics_port: int
    ends: float = 0.0

    @property
    def going_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.ends

    def encode(self) -> str:
        """Return what :meth:`decode` reads, for another process of this machine."""
        return json.dumps(self)

    @classmethod
    def decode(cls, text: str) -> Target:
        """Return the target that a text tells of."""
        return cls(*json.loads(text))


Run = Callable[[Target], int]
"""Attacks until the time is over; returns how often it did what it does."""


class Attack(NamedTuple):
    """One way to do harm.

    Attributes:
        unit: what is counted, for people.
        run: does it, in a process of its own.
        processes: how many do so at once.
    """

    name: str
    unit: str
    run: Run
    processes: int


ATTACKS: dict[str, Attack] = {}


def attack(name: str, unit: str, processes: int = 1) -> Callable[[Run], Run]:
    """Enter a function into the table of attacks."""

    def enter(run: Run) -> Run:
        ATTACKS[name] = Attack(name, unit, run, processes)
        return run

    return enter
