"""Equal work is done once: a key for what is equal, a bounded cache of results, a quarantine for poison."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_broker.core.entities import Request

HASHED_MAX_BYTES: Final = 256 * 1024
"""Bodies above this are not looked up: hashing them (about 1 GB/s) would hold up everybody else."""

QUARANTINE_MAX: Final = 1024
"""Bodies remembered as poison; each took the lives of several workers, so there are few."""


def content_key(op: str, model: str, frames: Sequence[bytes]) -> bytes:
    """Return a 128-bit digest of op, model and all frames, each with its length in front."""
    digest = blake2b(digest_size=16)
    for part in (op.encode(), model.encode(), *frames):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class ResultCache:
    """Results of pure ops by content key, least recently used out first."""

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._entries: OrderedDict[bytes, tuple[float, Sequence[bytes], int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> Sequence[bytes] | None:
        """Return the frames of a result that is not too old, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry[0]:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: bytes, frames: Sequence[bytes], now: float) -> None:
        """Keep a result, if it is small enough to leave room for others."""
        size = sum(map(len, frames)) + len(key)
        if size > self._max_bytes // 8:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = (now + self._ttl_s, frames, size)
        self.bytes += size
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key)[2]


class Quarantine:
    """Content that killed workers, refused for a while."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, request: Request, now: float) -> None:
        """Remember the content of a request."""
        self._until[content_key(request.op, request.model, request.frames)] = now + self._ttl_s
        if len(self._until) > QUARANTINE_MAX:
            self._until.popitem(last=False)

    def holds(self, request: Request, now: float) -> bool:
        """Whether this content is quarantined; costs a digest only while anything is."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        return bool(self._until) and content_key(request.op, request.model, request.frames) in self._until
