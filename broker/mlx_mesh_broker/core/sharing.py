"""Equal work is done once: a key for what is equal, a bounded cache of results, a quarantine for poison."""

from __future__ import annotations

from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_broker.core.entities import Request

HASHED_MAX_BYTES: Final = 256 * 1024
"""Bodies above this are not looked up: hashing them (about 1 GB/s) would hold up everybody else."""

ENTRY_BYTES: Final = 256
"""What keeping a result takes besides its frames; without it tiny results would take many times the bound."""

QUARANTINE_MAX: Final = 1024
"""Bodies remembered as poison; each took the lives of several workers, so there are few."""

Key = tuple[int, bytes]
"""Whose results these are (see ``Queue.source``), and a digest of what was asked."""


def content_key(op: str, model: str, frames: Sequence[bytes | memoryview]) -> bytes:
    """Return a 128-bit digest of op, model and all frames, each with its length in front."""
    digest = blake2b(digest_size=16)
    for part in (op.encode(), model.encode(), *frames):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class ResultCache:
    """Results of pure ops by key, least recently used out first."""

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._entries: OrderedDict[Key, tuple[float, Sequence[bytes], int]] = OrderedDict()
        self._of_source: dict[int, set[Key]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Sequence[bytes] | None:
        """Return the frames of a result that is not too old, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry[0]:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: Key, frames: Sequence[bytes], now: float) -> None:
        """Keep a result, if it is small enough to leave room for others."""
        size = sum(map(len, frames)) + ENTRY_BYTES
        if size > self._max_bytes // 8:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = (now + self._ttl_s, frames, size)
        self._of_source.setdefault(key[0], set()).add(key)
        self.bytes += size
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def drop_source(self, source: int) -> None:
        """Forget all results of a source."""
        for key in tuple(self._of_source.get(source, ())):
            self._drop(key)

    def check(self) -> bool:
        """Whether the counters agree with the entries; for the invariants."""
        keys = {key for keys in self._of_source.values() for key in keys}
        sized = self.bytes == sum(size for _, _, size in self._entries.values()) <= self._max_bytes
        return sized and keys == set(self._entries) and all(self._of_source.values())

    def _drop(self, key: Key) -> None:
        self.bytes -= self._entries.pop(key)[2]
        keys = self._of_source[key[0]]
        keys.remove(key)
        if not keys:
            del self._of_source[key[0]]


class _Mark(NamedTuple):
    until: float
    shape: tuple[str, str, int]
    head: bytes


class Quarantine:
    """Content that killed workers, refused for a while.

    Most bodies are told from it by op, model and size, the others by a digest of their beginning. A large body is only
    hashed as a whole if it begins like one that is quarantined.
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._marks: OrderedDict[bytes, _Mark] = OrderedDict()
        self._shapes: Counter[tuple[str, str, int]] = Counter()
        self._heads: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, request: Request, now: float) -> None:
        """Remember the content of a request."""
        digest = content_key(request.op, request.model, request.frames)
        if digest in self._marks:
            self._forget(digest)
        mark = _Mark(now + self._ttl_s, _shape(request), _head_key(request))
        self._marks[digest] = mark
        self._shapes[mark.shape] += 1
        self._heads[mark.head] += 1
        if len(self._marks) > QUARANTINE_MAX:
            self._forget(next(iter(self._marks)))

    def holds(self, request: Request, now: float) -> bool:
        """Whether this content is quarantined; costs a digest only if something much like it is."""
        while self._marks and next(iter(self._marks.values())).until <= now:
            self._forget(next(iter(self._marks)))
        if _shape(request) not in self._shapes:
            return False
        head = _head_key(request)
        if head not in self._heads or request.size <= HASHED_MAX_BYTES:
            return head in self._heads
        return content_key(request.op, request.model, request.frames) in self._marks

    def _forget(self, digest: bytes) -> None:
        mark = self._marks.pop(digest)
        _less(self._shapes, mark.shape)
        _less(self._heads, mark.head)


def _less(counter: Counter[Any], key: object) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _shape(request: Request) -> tuple[str, str, int]:
    return request.op, request.model, request.size


def _head_key(request: Request) -> bytes:
    """Return a digest of the beginning of the body; of all of it if it is no larger."""
    parts, left = [], HASHED_MAX_BYTES
    for frame in request.frames:
        parts.append(memoryview(frame)[:left])
        left -= len(parts[-1])
    return content_key(request.op, request.model, parts)
