"""What an engine declares, checked before the broker is told: it would refuse the worker, and nobody would see why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import limits
from mlx_mesh_worker.engine import BatchEngine, EngineLoadError

if TYPE_CHECKING:
    from mlx_mesh_worker.engine import Engine

NAMES_MAX_BYTES: Final = 3072
"""All ops and models together, two bytes for each included. They share a header of 4 KiB with the worker's name, host
and versions in READY, and with job ids and memory figures in BEAT.
"""


def check_declared(engine: Engine) -> None:
    """Check ``ops``, ``pure_ops``, ``models`` and ``slots``; ``load`` may set them too, so call it again after that.

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
    _check_number(engine, "slots", limits.SLOTS_MAX)
    if isinstance(engine, BatchEngine):
        _check_number(engine, "batch_max", limits.INTEGER_MAX)


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


def _check_number(engine: Engine, attribute: str, high: int) -> None:
    number: Any = getattr(engine, attribute)
    if type(number) is not int or not 1 <= number <= high:
        raise _refusal(engine, attribute, f"an integer from 1 to {high}")


def _refusal(engine: Engine, attribute: str, allowed: str) -> EngineLoadError:
    given = repr(getattr(engine, attribute))
    shown = given if len(given) <= limits.REASON_MAX_CHARS else f"{given[: limits.REASON_MAX_CHARS]}..."
    return EngineLoadError(f"{type(engine).__name__}.{attribute} is {shown}; allowed: {allowed}")
