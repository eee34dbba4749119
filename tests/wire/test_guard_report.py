"""What a guard reports is taken over as it is, or refused by the name of the field that is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlx_mesh_wire import InvalidRequestError, limits, pack_body, unpack_body
from mlx_mesh_wire.guard_report import (
    ITEMS_MAX,
    TEXT_MAX_CHARS,
    Footprint,
    GuardReport,
    Limit,
    Recycle,
    Troubled,
    parse_report,
)

FULL = GuardReport(
    pid=42,
    uptime_s=12.5,
    pressure=0.87,
    rung="pause",
    paused="bulk",
    paused_s=3.25,
    limits=[Limit("ram", 14 * 2**30, 16 * 2**30), Limit("cgroup", 0, 0)],
    signals={"psi_some_avg10": 1.5, "level": 2},
    workers=[Footprint("embed-0", 300 * 2**20, 250 * 2**20, -12.5, False), Footprint("text-0", 1, 0, 0, True)],
    recycles=[Recycle("embed-0", "drain", "leaking 1 MiB/s", 2)],
    troubled=[Troubled("text-1", "generate", "FATAL", "exit status 78: cannot_load: ä", 30.0, -1)],
    counters={"trims": 3, "recycles leak": 1},
    errors={"psi": 0},
    recent=["trimmed embed-0", "paused bulk"],
)


def test_a_report_comes_through_the_wire_as_it_was() -> None:
    assert parse_report(unpack_body([bytes(frame) for frame in pack_body(FULL.as_map())])) == FULL
    parsed = parse_report(FULL.as_map())
    assert [Limit, Footprint, Recycle, Troubled] == [
        type(items[0]) for items in (parsed.limits, parsed.workers, parsed.recycles, parsed.troubled)
    ]


def test_an_empty_report_is_one_and_what_later_versions_add_is_left_out() -> None:
    empty = FULL._replace(
        limits=[], signals={}, workers=[], recycles=[], troubled=[], counters={}, errors={}, recent=[]
    )
    assert empty == parse_report({**empty.as_map(), "weather": "fine"})
    (first, *others) = FULL.as_map()["limits"]
    assert FULL == parse_report({**FULL.as_map(), "limits": [{**first, "unit": "bytes"}, *others]})


@pytest.mark.parametrize("value", [None, [], "report", 1])
def test_what_is_no_map_is_no_report(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"^INVALID_REQUEST: report must be a map$") as caught:
        parse_report(value)
    assert {"field": "report"} == caught.value.details


@pytest.mark.parametrize("field", GuardReport._fields)
def test_every_field_is_needed(field: str) -> None:
    whole = FULL.as_map()
    del whole[field]
    with pytest.raises(InvalidRequestError, match=f"report.{field} must be given") as caught:
        parse_report(whole)
    assert {"field": f"report.{field}"} == caught.value.details


FOOTPRINT = {"name": "w", "bytes": 1, "baseline": 1, "slope": 0.0, "leaking": False}
TROUBLED = {"name": "w", "group": "g", "state": "FATAL", "reason": "", "since_s": 0, "retry_s": 0}
LONG = "x" * (TEXT_MAX_CHARS + 1)
TOO_MANY = {str(n): 1 for n in range(limits.MAP_MAX_ITEMS + 1)}


@pytest.mark.parametrize(
    ("field", "value", "named", "allowed"),
    [
        ("pid", -1, "pid", "an integer of at least 0"),
        ("pid", 1.0, "pid", "an integer"),
        ("pid", True, "pid", "an integer"),
        ("pid", 2**53, "pid", "an integer"),
        ("uptime_s", "1", "uptime_s", "a number"),
        ("uptime_s", True, "uptime_s", "a number"),
        ("pressure", math.nan, "pressure", "a number"),
        ("pressure", math.inf, "pressure", "a number"),
        ("paused_s", None, "paused_s", "a number"),
        ("rung", "panic", "rung", "one of 'calm', 'trim', 'pause', 'recycle', 'stop'"),
        ("rung", 1, "rung", f"a string of at most {TEXT_MAX_CHARS} characters"),
        ("paused", "interactive", "paused", "one of '', 'bulk', 'standard'"),
        ("limits", {}, "limits", f"a list of at most {ITEMS_MAX} items"),
        ("limits", [1], "limits[0]", "a map"),
        ("limits", [{"source": "ram", "used": 1}], "limits[0].limit", "given"),
        ("limits", [{"source": "ram", "used": -1, "limit": 1}], "limits[0].used", "an integer of at least 0"),
        ("limits", [{"source": LONG, "used": 1, "limit": 1}], "limits[0].source", "a string"),
        ("signals", [], "signals", f"a map of at most {limits.MAP_MAX_ITEMS} items"),
        ("signals", TOO_MANY, "signals", "a map of at most"),
        ("signals", {"psi": "high"}, "signals.psi", "a number"),
        ("signals", {LONG: 1.0}, "signals", "a map with strings"),
        ("counters", {1: 1}, "counters", "a map with strings"),
        ("workers", [FOOTPRINT, {**FOOTPRINT, "leaking": 1}], "workers[1].leaking", "true or false"),
        ("workers", [{**FOOTPRINT, "slope": "0"}], "workers[0].slope", "a number"),
        ("workers", [FOOTPRINT] * (ITEMS_MAX + 1), "workers", "a list of at most"),
        ("recycles", [{"name": "w"}], "recycles[0].phase", "given"),
        ("troubled", [{**TROUBLED, "reason": LONG}], "troubled[0].reason", "a string"),
        ("troubled", [{**TROUBLED, "retry_s": None}], "troubled[0].retry_s", "a number"),
        ("counters", {"trims": -1}, "counters.trims", "an integer"),
        ("errors", {"psi": 1.5}, "errors.psi", "an integer"),
        ("recent", "trimmed", "recent", "a list"),
        ("recent", ["trimmed", 2], "recent[1]", "a string"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_is_allowed(field: str, value: Any, named: str, allowed: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_report({**FULL.as_map(), field: value})
    assert {"field": f"report.{named}"} == caught.value.details
    assert caught.value.message.startswith(f"report.{named} must be {allowed}")
