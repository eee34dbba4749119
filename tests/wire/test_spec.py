"""What ``SPEC.md`` says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_mesh_wire import ERROR_CLASSES, MeshError, error_from_wire, limits
from mlx_mesh_wire.messages import TYPE_CODES

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text(encoding="utf-8")


def test_the_error_table_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| .* \| (yes|no) \|$", SPEC, re.MULTILINE)
    assert {code: answer == "yes" for code, answer in rows} == {
        code: cls.retryable_by_default for code, cls in ERROR_CLASSES.items()
    }


def test_the_type_codes_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", SPEC, re.MULTILINE)
    assert {name: int(code) for code, name in rows} == {cls.__name__.upper(): code for cls, code in TYPE_CODES.items()}


def test_every_field_is_named_in_its_row() -> None:
    for cls in TYPE_CODES:
        row = re.search(rf"^\| \d+ \| {cls.__name__.upper()} \|.*$", SPEC, re.MULTILINE)
        assert row
        if "as LOADING" in row[0] or "as REQUEST" in row[0]:
            continue
        for name in cls._fields:  # type: ignore[attr-defined]
            assert f"`{name}`" in row[0], (cls.__name__, name)


def test_the_limits_are_stated() -> None:
    assert f"{limits.HEADER_MAX_BYTES} bytes" in SPEC
    assert f"1 to {limits.FRAMES_MAX} frames" in SPEC
    assert f"{limits.MESSAGE_MAX_BYTES // 2**20} MiB" in SPEC
    assert f"more than {limits.HEADER_ITEMS_MAX} items" in SPEC
    assert f"at most {limits.DIMENSIONS_MAX} dimensions" in SPEC
    assert f"nesting deeper than {limits.BODY_DEPTH_MAX}" in SPEC
    assert f"more than {limits.BODY_ITEMS_MAX} items" in SPEC


def test_errors_keep_what_the_wire_said() -> None:
    for code, cls in ERROR_CLASSES.items():
        error = error_from_wire(code, "why", True, 250, {"field": "x"})
        assert type(error) is cls
        assert (code, "why", True, 250, {"field": "x"}) == (
            error.code, error.message, error.retryable, error.retry_after_ms, error.details,
        )  # fmt: skip
        assert f"{code}: why" == str(error)
    assert isinstance(ERROR_CLASSES["DEADLINE_EXCEEDED"]("late"), TimeoutError)
    assert isinstance(ERROR_CLASSES["INVALID_REQUEST"]("bad"), ValueError)


def test_an_unknown_code_is_an_internal_error_that_names_it() -> None:
    error = error_from_wire("BRAND_NEW", "why", True, 0)
    assert (error.code, error.retryable) == ("INTERNAL", True)
    assert "BRAND_NEW" in error.message
    assert isinstance(error, MeshError)
