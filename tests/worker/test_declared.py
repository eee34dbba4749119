"""What an engine may declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mlx_mesh_wire import encode_header, messages
from mlx_mesh_worker.declared import ABOUT_MAX_ITEMS, FIGURES_MAX_BYTES, check_declared, checked_about, fit_counters
from mlx_mesh_worker.engine import BatchEngine, EngineLoadError

NAMES_64 = [f"op{number}" for number in range(64)]


class Sound(BatchEngine):
    ops: Sequence[str] = ("one", "two")
    said: Any = None

    def about(self) -> Any:
        return self.said

    def run(self, batch: list[Any]) -> Sequence[Any]:
        return batch


BAD: list[tuple[str, Any, str]] = [
    ("ops", "shout", "a tuple of one has a comma: ops = ('shout',)"),
    ("ops", (), "a tuple of 1 to 64 different names of 1 to 64 characters"),
    ("ops", [*NAMES_64, "more"], "a tuple of 1 to 64"),
    ("ops", ("",), "names of 1 to 64 characters"),
    ("ops", ("n" * 65,), "names of 1 to 64 characters"),
    ("ops", ("a", "a"), "different"),
    ("ops", ("a", 1), "names"),
    ("ops", None, "a tuple"),
    ("ops", {"a": 1}, "a tuple"),
    ("ops", ("\ud800",), "names"),
    ("pure_ops", "one", "a tuple of one has a comma: pure_ops = ('one',)"),
    ("pure_ops", ("three",), "names that are in ops, too"),
    ("models", "name", "a tuple of one has a comma"),
    ("models", ("m" * 201,), "a tuple of 0 to 64 different names of 1 to 200 characters"),
    ("models", [f"m{number}" for number in range(65)], "0 to 64"),
    ("slots", 0, "an integer from 1 to 4096"),
    ("slots", 4097, "an integer from 1 to 4096"),
    ("slots", True, "an integer"),
    ("slots", 8.0, "an integer"),
    ("bulk_slots", -1, "an integer from 0 to 4096"),
    ("bulk_slots", 4097, "an integer from 0 to 4096"),
    ("bulk_slots", None, "an integer"),
    ("resumes", 1, "True or False"),
    ("batch_max", 0, "an integer from 1"),
]


@pytest.mark.parametrize(("attribute", "value", "allowed"), BAD)
def test_what_cannot_be_declared_is_refused_by_name(attribute: str, value: Any, allowed: str) -> None:
    engine = Sound()
    setattr(engine, attribute, value)
    with pytest.raises(EngineLoadError) as caught:
        check_declared(engine)
    assert f"Sound.{attribute} is {value!r}"[:200] in str(caught.value)
    assert allowed in str(caught.value)


def test_names_that_do_not_fit_into_a_header_together_are_refused() -> None:
    engine = Sound()
    engine.models = [f"{number:0200}" for number in range(12)]
    check_declared(engine)
    engine.models = [f"{number:0200}" for number in range(13)]
    with pytest.raises(EngineLoadError, match="ops, pure_ops and models together take 2636 bytes, allowed are 2560"):
        check_declared(engine)


def test_the_most_that_may_be_declared_fits_into_the_messages_that_tell_it() -> None:
    engine = Sound()
    engine.ops = NAMES_64
    engine.models = ["\u20ac" * 200, *("\u20ac" * 66 + str(number) for number in range(7))]
    check_declared(engine)
    wide = "\u20ac" * 64
    versions = dict.fromkeys(("python", "mlx-mesh", "pyzmq", "mlx", "tokenizers"), "1.2.3.dev20261124+local")
    engine.said = {"b": "x" * (FIGURES_MAX_BYTES - 5)}
    ready = messages.Ready(
        1, 0, b"i" * 16, wide, "h" * 64, "m" * 128, 2**31 - 1, 2**53 - 1,
        list(engine.ops), [], list(engine.models), 4096, 10**8,
        {**versions, **checked_about(engine)}, 4096,
    )  # fmt: skip
    encode_header(ready)
    memory = {"rss": 2**40, "mlx_active": 2**40, "mlx_cache": 2**40, "mlx_peak": 2**40}
    counters = fit_counters({"x" * 8 + str(number): 2**53 - 1 for number in range(64)})
    assert 20 < len(counters) < 64
    encode_header(messages.Beat(2**53 - 1, 4096, False, [2**53 - 1] * 64, list(engine.models), memory, counters))


@pytest.mark.parametrize(
    "said",
    [
        None,
        ["a"],
        {"a": 1},
        {1: "a"},
        {"a": "\ud800"},
        {"a": "x" * FIGURES_MAX_BYTES},
        {str(number): "" for number in range(ABOUT_MAX_ITEMS + 1)},
    ],
)
def test_what_an_engine_says_of_itself_has_to_fit_into_ready(said: Any) -> None:
    engine = Sound()
    engine.said = said
    with pytest.raises(
        EngineLoadError, match=r"Sound\.about\(\) returned .*; allowed: a map of at most 16 printable strings"
    ):
        checked_about(engine)


def test_counters_that_cannot_be_sent_are_left_out_and_the_others_are_sent() -> None:
    odd = {
        "hits": 3,
        "negative": -1,
        "large": 2**53,
        "flag": True,
        "float": 1.0,
        5: 1,
        "\n": 1,
        "\ud800": 1,
        "none": None,
    }
    assert {"hits": 3} == fit_counters(odd)
    assert {} == fit_counters(None)
