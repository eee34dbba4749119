"""Who holds a key, what that key may do, and how much of it is used: pure figures, without tables or messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mlx_mesh_wire.limits import QUOTA_MAX, QUOTA_RATE_MIN

if TYPE_CHECKING:
    from mlx_mesh_wire.messages import Lane

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of holders are shown in a terminal, in logs and as labels of metrics."""


class Role(StrEnum):
    """What a key is for; NONE is that of a key which is not, or no longer, authorised."""

    CLIENT = "client"
    WORKER = "worker"
    OPERATOR = "operator"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a key. Nothing is limited that is left at its default.

    Attributes:
        name: different from those of all other holders, whatever their roles.
        role: the only side of the broker that serves this key.
        rate_per_s: requests and questions for the status, per second, over all connections; 0 for any number.
        burst: how many of them may come at once after a quiet time; 0 for those of one second, one at least.
        outstanding_max: requests without an answer yet, over all connections; 0 for any number.
        lanes: lanes that its requests may use; empty for all.
        ops: ops that a client may call or a worker may serve; empty for all.
        models: models likewise; the empty name stands for a request that names none. Empty for all.

    Raises:
        ValueError: a field is out of bounds; the text names it.
    """

    name: str
    role: Role
    rate_per_s: float = 0.0
    burst: int = 0
    outstanding_max: int = 0
    lanes: frozenset[Lane] = frozenset()
    ops: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.role is not Role.NONE and not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} does not match {NAME_PATTERN.pattern}")
        if self.rate_per_s and not QUOTA_RATE_MIN <= self.rate_per_s <= QUOTA_MAX:
            raise ValueError(f"rate_per_s: {self.rate_per_s!r} is not 0 or from {QUOTA_RATE_MIN:g} to {QUOTA_MAX:g}")
        for field in ("burst", "outstanding_max"):
            value = getattr(self, field)
            if not 0 <= value <= QUOTA_MAX:
                raise ValueError(f"{field}: {value!r} is not from 0 to {QUOTA_MAX}")


STRANGER: Final = Holder("", Role.NONE)
"""Whose messages are refused: on a socket with keys, the sender's key is not in the authorised set."""

_ROUNDING: Final = 1e-6
"""Part of a token that may be missing: whoever waits as long as he was told is not refused for the rounding."""


class Account:
    """What a key has used, over all its connections.

    The rate is a token bucket (J. Turner, "New directions in communications", 1986; the meter of RFC 2697): with rate
    r, burst b and the time t since the last look, ``tokens = min(b, tokens + r * t)``. What is let pass takes one, and
    the next one is there after ``(1 - tokens) / r`` seconds.

    Attributes:
        holder: what the key may do as of its last message.
        sessions: sessions of clients; ``outstanding`` requests of these without an answer.
        refused: how often a quota was exceeded.
        tokens: in the bucket at ``filled``; below 0 after requests that were let pass without one.
    """

    __slots__ = ("filled", "holder", "outstanding", "refused", "sessions", "tokens")

    def __init__(self, holder: Holder, now: float) -> None:
        self.holder = holder
        self.sessions = 0
        self.outstanding = 0
        self.refused = 0
        self.tokens = self._burst()
        self.filled = now

    def renew(self, holder: Holder, now: float) -> None:
        """Go by other quotas from now on; what was used so far counts."""
        if holder is not self.holder:
            self._fill(now)
            if not self.holder.rate_per_s:
                self.tokens = float("inf")
            self.holder = holder
            self.tokens = min(self.tokens, self._burst())

    def owe(self) -> None:
        """Take a token that is not there yet."""
        self.tokens -= 1

    def take(self, now: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        rate_per_s = self.holder.rate_per_s
        if not rate_per_s:
            return 0.0
        self._fill(now)
        if self.tokens < 1 - _ROUNDING:
            return (1 - self.tokens) / rate_per_s
        self.tokens -= 1
        return 0.0

    def _burst(self) -> float:
        return float(self.holder.burst or max(1.0, self.holder.rate_per_s))

    def _fill(self, now: float) -> None:
        self.tokens = min(self._burst(), self.tokens + self.holder.rate_per_s * (now - self.filled))
        self.filled = now
