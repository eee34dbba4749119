"""Results that were sent and are kept for a while, since a broker may die with them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_mesh_worker.runner import Done

SENT_EXTRA: Final = 72
SENT_MAX_BYTES: Final = 64 * 1024 * 1024
SENT_S: Final = 30.0
"""How many beyond the slots, how large together, how long.

No acknowledgement is needed: a broker has given this worker at most ``slots`` jobs that have not ended, 64 to prefetch
and 8 suspects, so it has taken every result that is older than that many others.
"""

Key = tuple[bytes, int]
"""Session and request id: what a job is known by over all attempts."""


class _Kept(NamedTuple):
    until: float
    done: Done
    size: int


class SentResults:
    """The last results by session and request id, oldest first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[tuple[Key, Done]]:
        return ((key, kept.done) for key, kept in self._kept.items())

    def keep(self, now: float, done: Done, slots: int) -> None:
        """Keep a result that has just been sent, of a worker with so many slots; the oldest ones go if need be."""
        done.job.frames = ()  # The request is done with; only its result is kept.
        size = sum(map(len, done.frames))
        self._kept[done.job.key] = _Kept(now + SENT_S, done, size)
        self._bytes += size
        while len(self._kept) > slots + SENT_EXTRA or self._bytes > SENT_MAX_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].size

    def take(self, key: Key) -> Done:
        """Return a result and keep it no longer."""
        kept = self._kept.pop(key)
        self._bytes -= kept.size
        return kept.done

    def drop(self, now: float) -> None:
        """Let go of those that were kept for long enough."""
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._bytes -= self._kept.popitem(last=False)[1].size
