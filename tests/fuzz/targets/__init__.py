"""One module for each target, with a function ``one(data) -> number of inputs``; anything that it raises is a find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

Target = Callable[[bytes], int]

CORPUS = Path(__file__).parents[1] / "corpus"

TARGETS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def load(name: str) -> Target:
    """Return the function of a target."""
    one: Target = import_module(f"{__name__}.{name}").one
    return one


def seeds(name: str) -> Iterator[bytes]:
    """Yield what a target is begun with beside its corpus; none if it has no ``seeds``."""
    yield from getattr(import_module(f"{__name__}.{name}"), "seeds", list)()


def corpus(name: str) -> list[Path]:
    """Return the files of a target's corpus."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())
