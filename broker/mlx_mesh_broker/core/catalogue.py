"""What the workers offer together: which ops, with which models. Asked in constant time, however many workers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = tuple[frozenset[str], frozenset[str]]
"""Ops and models of a worker. Workers of a fleet are of few kinds."""

ANY: Final = "*"
"""Stands for all models that no worker lists: names that clients make up share one queue and one series of figures.
A worker that lists a model of this name serves it as its default only.
"""


class Catalogue:
    """The ops and models of all workers.

    Attributes:
        models: the models that workers list, by op; every op that is served has an entry.
        open: ops of which some worker lists no models, and so serves any.
    """

    def __init__(self) -> None:
        self._kinds: Counter[Kind] = Counter()
        self._named: dict[str, str] = {}
        self.models: dict[str, set[str]] = {}
        self.open: set[str] = set()

    def replace(self, old: Kind | None, new: Kind | None) -> bool:
        """Take account of a worker that came, went or changed; True if there is something else on offer now."""
        before = set(self._kinds)
        if old is not None:
            self._kinds[old] -= 1
        if new is not None:
            self._kinds[new] += 1
        self._kinds = +self._kinds
        if before == set(self._kinds):
            return False
        self._named = {}
        self.models, self.open = {}, set()
        for ops, models in self._kinds:
            for op in ops:
                self.models.setdefault(op, set()).update(models)
            if not models:
                self.open |= ops
        return True

    def serves(self, op: str, model: str) -> bool:
        """Whether some worker serves the op on the model; an empty name means a worker's default."""
        return op in self.models and (not model or op in self.open or model in self.models[op])

    def lists(self, op: str, model: str) -> bool:
        """Whether some worker names this model for the op."""
        return model in self.models.get(op, ())

    def shelf(self, op: str, model: str) -> str:
        """Return the model by which a queue for it is known: its name if a worker lists it, else ANY."""
        return model if not model or self.lists(op, model) else ANY

    def ops_named(self) -> str:
        """Return the ops, for people."""
        return self._text("", self.models)

    def models_named(self, op: str) -> str:
        """Return the models of an op, for people."""
        return self._text(op, self.models[op])

    def _text(self, key: str, names: Iterable[str]) -> str:
        if key not in self._named:
            self._named[key] = ", ".join(sorted(names))
        return self._named[key]
