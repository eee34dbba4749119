"""What a guard tells the broker once a second: memory, what it is doing about it, and processes that were given up.

The broker shows it in its status and its metrics, and names in NO_WORKER why a process does not run.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

from mlx_mesh_wire import limits
from mlx_mesh_wire.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

RUNGS = ("calm", "trim", "pause", "recycle", "stop")
"""The rungs of the guard's ladder, from none up."""

PAUSES = ("", "bulk", "standard")
"""The highest lane that waits; those below it wait too."""

ITEMS_MAX = 1024
"""Entries of one list: more processes than that are not run on one machine."""

TEXT_MAX_CHARS = 400
"""A reason, as it is shown in a table and told in an error."""


class Limit(NamedTuple):
    """A bound of memory and what is taken of it, in bytes. ``source``: configured, ram, cgroup, device."""

    source: str
    used: int
    limit: int

    @property
    def ratio(self) -> float:
        """What share of it is taken; a bound of nothing is taken whole."""
        return self.used / self.limit if self.limit > 0 else 1.0


class Footprint(NamedTuple):
    """What the process of a worker takes, in bytes: now, and when it had just become ready.

    ``slope`` is what it grows by, in bytes per second; ``leaking`` says that this is taken for a leak.
    """

    name: str
    bytes: int
    baseline: int
    slope: float
    leaking: bool


class Recycle(NamedTuple):
    """A recycle under way. ``phase``: stand-in, drain, stop, start."""

    name: str
    phase: str
    reason: str
    since_s: float


class Troubled(NamedTuple):
    """A process that supervisord has given up.

    ``retry_s`` is when the guard starts it again, in seconds from now; below 0 it does not.
    """

    name: str
    group: str
    state: str
    reason: str
    since_s: float
    retry_s: float


class GuardReport(NamedTuple):
    """The whole report.

    Attributes:
        pid: of the guard.
        uptime_s: seconds since it started.
        pressure: the highest ratio of used to limit; OS signals may lift it.
        rung: one of RUNGS.
        paused: one of PAUSES, for ``paused_s`` seconds by now.
        limits: all bounds that are known.
        signals: what the operating system says, by name.
        workers: footprints of the workers on this machine.
        recycles: those under way.
        troubled: processes that were given up.
        counters: what the guard has done since it started, by name; ``recycles REASON`` for each reason.
        errors: how often a source could not be read, by source.
        recent: the last actions, in words, newest last.
    """

    pid: int
    uptime_s: float
    pressure: float
    rung: str
    paused: str
    paused_s: float
    limits: list[Limit]
    signals: dict[str, float]
    workers: list[Footprint]
    recycles: list[Recycle]
    troubled: list[Troubled]
    counters: dict[str, int]
    errors: dict[str, int]
    recent: list[str]

    def as_map(self) -> dict[str, Any]:
        """Return it as a body value."""
        return {name: _plain(value) for name, value in zip(self._fields, self, strict=True)}


def parse_report(value: Any) -> GuardReport:
    """Return the report in a body value.

    Raises:
        InvalidRequestError: naming the field that is missing or not as it should be.
    """
    report: GuardReport = _parsed("report", GuardReport, value)
    for name, allowed in (("rung", RUNGS), ("paused", PAUSES)):
        if getattr(report, name) not in allowed:
            raise _refusal(f"report.{name}", f"one of {', '.join(map(repr, allowed))}")
    return report


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value._asdict() if hasattr(value, "_asdict") else value


def _parsed(field: str, cls: Any, value: Any) -> Any:
    """Return ``value``, a map with the fields of ``cls``, as such a tuple; further keys are of later versions."""
    if not isinstance(value, dict):
        raise _refusal(field, "a map")
    hints = _hints(cls)
    missing = [name for name in cls._fields if name not in value]
    if missing:
        raise _refusal(f"{field}.{missing[0]}", "given")
    return cls(*(_checked(f"{field}.{name}", hints[name], value[name]) for name in cls._fields))


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(field: str, kind: Any, value: Any) -> Any:
    check = _CHECKS.get(kind)
    if check is not None:
        allowed, fits = check
        if not fits(value):
            raise _refusal(field, allowed)
        return value
    item = get_args(kind)[-1]
    if getattr(kind, "__origin__", None) is dict:
        return _map(field, item, value)
    if not isinstance(value, list) or len(value) > ITEMS_MAX:
        raise _refusal(field, f"a list of at most {ITEMS_MAX} items")
    if item is str:
        return [_checked(f"{field}[{index}]", str, each) for index, each in enumerate(value)]
    return [_parsed(f"{field}[{index}]", item, each) for index, each in enumerate(value)]


def _map(field: str, item: Any, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > limits.MAP_MAX_ITEMS:
        raise _refusal(field, f"a map of at most {limits.MAP_MAX_ITEMS} items")
    for name in value:
        if not isinstance(name, str) or len(name) > TEXT_MAX_CHARS:
            raise _refusal(field, f"a map with strings of at most {TEXT_MAX_CHARS} characters as keys")
    return {name: _checked(f"{field}.{name}", item, each) for name, each in value.items()}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= limits.INTEGER_MAX


_CHECKS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("an integer of at least 0", lambda value: type(value) is int and 0 <= value <= limits.INTEGER_MAX),
    float: ("a number", _is_number),
    bool: ("true or false", lambda value: type(value) is bool),
    str: (
        f"a string of at most {TEXT_MAX_CHARS} characters",
        lambda value: isinstance(value, str) and len(value) <= TEXT_MAX_CHARS,
    ),
}


def _refusal(field: str, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field} must be {allowed}", details={"field": field})
