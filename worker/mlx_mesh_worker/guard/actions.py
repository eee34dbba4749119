"""What the guard decides to do; ``policy.decide`` returns these, and the shell does them in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Trim(NamedTuple):
    """Have the workers of this machine give memory back: level 1 or 2; 0 when that is over."""

    level: int


class Quiet(NamedTuple):
    """Have the broker drain the worker of this name that has this pid."""

    worker: str
    pid: int


class Restart(NamedTuple):
    """Have supervisord stop a process and start it again; ``hurry`` lets the worker leave at once."""

    process: str
    hurry: bool


class Start(NamedTuple):
    """Have supervisord start a process that it has given up."""

    process: str


class Kill(NamedTuple):
    """SIGKILL for a process that does not leave; it had this pid."""

    process: str
    pid: int


class Dump(NamedTuple):
    """Have a process write its stacks to its log (SIGUSR1)."""

    process: str


class AddStandIn(NamedTuple):
    """Have supervisord start one process more beside this one, of the same program."""

    process: str


class Remove(NamedTuple):
    """Have supervisord stop a stand-in and forget it."""

    process: str


class Say(NamedTuple):
    """One log line; ``text`` is the same in words, for the status."""

    level: str
    event: str
    fields: Mapping[str, object]
    text: str


Action = Trim | Quiet | Restart | Start | Kill | Dump | AddStandIn | Remove | Say
