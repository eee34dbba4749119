"""What an engine declares, checked before the broker is told: it would refuse the worker, and nobody would see why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import limits
from mlx_mesh_worker.engine import BatchEngine, EngineLoadError

if TYPE_CHECKING:
    from mlx_mesh_worker.engine import Engine

NAMES_MAX_BYTES: Final = 2560
"""All ops and models together, two bytes for each included. They share a header of 4 KiB with the worker's name, host
and versions in READY, and with job ids and memory figures in BEAT.
"""

FIGURES_MAX_BYTES: Final = 512
"""What an engine says of itself in READY, and its counters in BEAT; each takes the rest of the same header."""

ABOUT_MAX_ITEMS: Final = 16
COUNTER_BYTES: Final = 10
"""What a counter takes besides its name: the length of that, and an integer."""


def check_declared(engine: Engine) -> None:
    """Check what an engine declares about its ops, models and slots; ``load`` may set it too, so call it again then.

    Raises:
        EngineLoadError: naming the attribute, what it is and what is allowed.
    """
    _check_names(engine, "ops", 1, limits.OP_MAX_CHARS)
    _check_names(engine, "pure_ops", 0, limits.OP_MAX_CHARS)
    _check_names(engine, "models", 0, limits.MODEL_MAX_CHARS)
    for op in engine.pure_ops:
        if op not in engine.ops:
            raise _refusal(engine, "pure_ops", "names that are in ops, too")
    size = sum(len(name.encode()) + 2 for name in (*engine.ops, *engine.pure_ops, *engine.models))
    if size > NAMES_MAX_BYTES:
        text = f"ops, pure_ops and models together take {size} bytes, allowed are {NAMES_MAX_BYTES}"
        raise EngineLoadError(f"{type(engine).__name__}: {text}")
    _check_number(engine, "slots", 1, limits.SLOTS_MAX)
    _check_number(engine, "bulk_slots", 0, limits.SLOTS_MAX)
    if type(engine.resumes) is not bool:
        raise _refusal(engine, "resumes", "True or False")
    if isinstance(engine, BatchEngine):
        _check_number(engine, "batch_max", 1, limits.INTEGER_MAX)


def checked_about(engine: Engine) -> dict[str, str]:
    """Return what an engine says of itself.

    Raises:
        EngineLoadError: it is no map of strings to strings, or too much for READY.
    """
    about: Any = engine.about()
    if _is_about(about):
        return dict(about)
    allowed = f"a map of at most {ABOUT_MAX_ITEMS} printable strings to such, {FIGURES_MAX_BYTES} bytes in all"
    raise EngineLoadError(f"{type(engine).__name__}.about() returned {_shown(about)}; allowed: {allowed}")


def _is_about(given: Any) -> bool:
    if type(given) is not dict or len(given) > ABOUT_MAX_ITEMS:
        return False
    texts: list[Any] = [text for pair in given.items() for text in pair]
    if not all(type(text) is str and text.isprintable() for text in texts):
        return False
    return sum(len(text.encode()) + 2 for text in texts) <= FIGURES_MAX_BYTES


def fit_counters(given: Any) -> dict[str, int]:
    """Return those counters that a beat can carry; a defect in one must not end the worker's connection."""
    counters: dict[str, int] = {}
    left = FIGURES_MAX_BYTES
    for name, count in given.items() if isinstance(given, dict) else ():
        if type(name) is str and name.isprintable() and type(count) is int and 0 <= count <= limits.INTEGER_MAX:
            left -= len(name.encode()) + COUNTER_BYTES
            if left >= 0 and len(counters) < limits.MAP_MAX_ITEMS:
                counters[name] = count
    return counters


def _check_names(engine: Engine, attribute: str, fewest: int, chars_max: int) -> None:
    names: Any = getattr(engine, attribute)
    if isinstance(names, str):
        raise _refusal(engine, attribute, f"a tuple of names; a tuple of one has a comma: {attribute} = ({names!r},)")
    allowed = f"a tuple of {fewest} to {limits.LIST_MAX_ITEMS} different names of 1 to {chars_max} characters"
    if not isinstance(names, tuple | list) or not fewest <= len(names) <= limits.LIST_MAX_ITEMS:
        raise _refusal(engine, attribute, allowed)
    fit = all(isinstance(name, str) and 1 <= len(name) <= chars_max and name.isprintable() for name in names)
    if not fit or len(set(names)) < len(names):
        raise _refusal(engine, attribute, allowed)


def _check_number(engine: Engine, attribute: str, low: int, high: int) -> None:
    number: Any = getattr(engine, attribute)
    if type(number) is not int or not low <= number <= high:
        raise _refusal(engine, attribute, f"an integer from {low} to {high}")


def _refusal(engine: Engine, attribute: str, allowed: str) -> EngineLoadError:
    shown = _shown(getattr(engine, attribute))
    return EngineLoadError(f"{type(engine).__name__}.{attribute} is {shown}; allowed: {allowed}")


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= limits.REASON_MAX_CHARS else f"{text[: limits.REASON_MAX_CHARS]}..."
