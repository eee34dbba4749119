"""Every field of every message may have what ``SPEC.md`` says and nothing beyond it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import msgpack
import pytest

from mlx_mesh_wire import DecodeError, decode_header, limits
from mlx_mesh_wire.body import ITEM_BYTES
from mlx_mesh_wire.messages import TYPE_CODES, FinalFlag, Flag, Lane

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text(encoding="utf-8")

CLASSES = {cls.__name__.upper(): cls for cls in TYPE_CODES}
ROW = re.compile(r"^\| \d+ \| ([A-Z]+) \|(.*)\|$", re.MULTILINE)
FIELDS = re.compile(r"((?:`\w+`, )*`\w+`) (int|str|bytes|bool|array|map)\b([^,;:|]*)")
ALIKE = {"READY": "LOADING", "JOB": "REQUEST"}
"""Rows that say "as" another: the fields that they do not describe themselves are as there."""


def quoted(pattern: str) -> str:
    found = re.search(pattern, SPEC, re.DOTALL)
    assert found, pattern
    return found[1]


def stated(pattern: str) -> int:
    return int(quoted(pattern))


MAP_ITEMS = stated(r"A map has at most (\d+) items")


def described() -> dict[str, dict[str, tuple[str, str]]]:
    """Return kind and bounds of each field in the words of the tables, by message and field."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name, text in ROW.findall(SPEC):
        fields = {
            field: (kind, bounds) for group, kind, bounds in FIELDS.findall(text) for field in re.findall(r"\w+", group)
        }
        found[name] = {field: words for field, words in fields.items() if field in CLASSES[name]._fields}  # type: ignore[attr-defined]
    for name, other in ALIKE.items():
        own = CLASSES[name]._fields  # type: ignore[attr-defined]
        found[name] = {**{field: words for field, words in found[other].items() if field in own}, **found[name]}
    return found


def ends(kind: str, words: str) -> tuple[int, int]:
    """Return both ends of a range in the words of a table."""
    words = words.replace("2^31-1", str(2**31 - 1))
    if found := re.search(r"(\d+)(?:-| to )(\d+)", words):
        return int(found[1]), int(found[2])
    if found := re.search(r"≤ (\d+)", words):
        return 0, int(found[1])
    if found := re.search(r"≥ (\d+)", words):
        return int(found[1]), 2**53 - 1
    if found := re.search(r"len (\d+)", words):
        return int(found[1]), int(found[1])
    assert kind in ("int", "map"), words
    return 0, 2**53 - 1 if kind == "int" else MAP_ITEMS


def value(kind: str, words: str, size: int) -> Any:
    """Return a value of that size: the number itself, or something as long."""
    if kind == "int":
        return size
    if kind == "map":
        return {str(n): "v" if "str to str" in words else n for n in range(size)}
    item: Any = "s" if "of str" in words else [b"i" * 16, 1, 1] if "`[" in words else 1
    return {"str": "s" * size, "bytes": b"b" * size, "array": [item] * size}[kind]


def header(name: str, changed: str, given: Any) -> bytes:
    """Return the header of a message with the least that each field may have, but for one."""
    fields = {
        field: True if kind == "bool" else value(kind, words, ends(kind, words)[0])
        for field, (kind, words) in TABLE[name].items()
    }
    cls = CLASSES[name]
    fields[changed] = given
    return bytes(msgpack.packb([TYPE_CODES[cls], *(fields[field] for field in cls._fields)]))  # type: ignore[attr-defined]


TABLE = described()
BOUNDED = [
    (name, field, kind, words)
    for name, fields in TABLE.items()
    for field, (kind, words) in fields.items()
    if kind != "bool"
]


def test_the_tables_describe_every_field_by_its_type() -> None:
    assert CLASSES.keys() == TABLE.keys()
    kinds = {int: "int", str: "str", bytes: "bytes", bool: "bool", list: "array", dict: "map"}
    for name, cls in CLASSES.items():
        hints = {field: getattr(hint, "__origin__", hint) for field, hint in get_type_hints(cls).items()}
        assert {field: kinds[hint] for field, hint in hints.items()} == {
            field: kind for field, (kind, _) in TABLE[name].items()
        }


@pytest.mark.parametrize(("name", "field", "kind", "words"), BOUNDED, ids=[f"{n}.{f}" for n, f, *_ in BOUNDED])
def test_a_field_may_be_at_both_ends_of_its_range_and_not_beyond(name: str, field: str, kind: str, words: str) -> None:
    low, high = ends(kind, words)
    for size in {low, high}:
        fits = value(kind, words, size)
        assert fits == getattr(decode_header(header(name, field, fits)), field)
    for size in {low - 1, high + 1} - ({-1} if kind != "int" else set()):
        with pytest.raises(DecodeError, match=rf"(?i){name}\.{field} .* {size}, allowed are {low} to {high}$"):
            decode_header(header(name, field, value(kind, words, size)))


def test_fields_that_later_versions_added_are_nought_where_nobody_gives_them() -> None:
    for cls in TYPE_CODES:
        given = cls._field_defaults  # type: ignore[attr-defined]
        assert dict.fromkeys(given, 0) == given


def numbered(text: str) -> dict[str, int]:
    return {name: int(number) for number, name in re.findall(r"(\d+) ([A-Z][A-Z_]+)", text)}


def test_the_flags_and_lanes_have_the_numbers_of_the_text() -> None:
    lanes = re.findall(r"(\d+) (\w+)", quoted(r"\nLanes: (.*?)\. REQUEST flags"))
    assert {name: int(number) for number, name in lanes} == {lane.name.lower(): int(lane) for lane in Lane}
    request, job = quoted(r"\. REQUEST flags: (.*?) \(section 7\.1\)"), quoted(r"JOB flag (.*?):")
    assert numbered(request) | numbered(job) == {k: v for k, v in vars(Flag).items() if k.isupper()}
    final = quoted(r"FINAL flags: (.*?)\. ")
    assert numbered(final) == {k: v for k, v in vars(FinalFlag).items() if k.isupper()}


def test_the_limits_are_those_of_the_text_to_the_byte() -> None:
    assert (stated(r"protocol, version (\d+)\."), stated(r"protocol, version \d+\.(\d+)")) == (
        limits.PROTOCOL_MAJOR,
        limits.PROTOCOL_MINOR,
    )
    assert stated(r"header\*\* is a msgpack array of at most (\d+) bytes") == limits.HEADER_MAX_BYTES
    assert stated(r"MUST NOT exceed (\d+) MiB") * 2**20 == limits.MESSAGE_MAX_BYTES
    assert stated(r"bundle bodies over (\d+) KiB") * 2**10 == limits.BUNDLED_MAX_BYTES
    assert stated(r"carries 1 to (\d+) small messages") == limits.BUNDLE_MAX_MESSAGES
    assert 2 ** stated(r"0 to 2\^(\d+) - 1") - 1 == limits.INTEGER_MAX


def test_an_element_of_a_tensor_takes_the_bits_that_its_name_says() -> None:
    assert set(quoted(r"dtypes: `(.*?)`").split()) == set(ITEM_BYTES)
    for dtype, size in ITEM_BYTES.items():
        digits = re.search(r"\d+$", dtype)
        assert size == (int(digits[0]) // 8 if digits else 1)
