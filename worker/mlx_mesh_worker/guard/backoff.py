"""When to try a peer again that did not answer, and saying so once."""

from __future__ import annotations

from typing import Final

from mlx_mesh_wire.logs import log

FIRST_S: Final = 0.5
LONGEST_S: Final = 10.0


class Backoff:
    """Doubles the pause between tries up to ten seconds; logs when a peer falls silent and when it is back.

    Args:
        peer: its name in the log.

    Attributes:
        failures: how often it did not answer.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._again_at = 0.0
        self._pause_s = 0.0
        self.failures = 0

    def may_try(self, now: float) -> bool:
        """Whether the pause is over."""
        return now >= self._again_at

    def reset(self) -> None:
        """End the pause: there is reason to hope."""
        self._again_at = 0.0

    def failed(self, now: float, reason: str) -> None:
        """The peer did not answer."""
        self.failures += 1
        if not self._pause_s:
            log("warning", "peer_away", peer=self._peer, reason=reason, hint="asking again until it answers")
        self._pause_s = min(max(FIRST_S, 2 * self._pause_s), LONGEST_S)
        self._again_at = now + self._pause_s

    def worked(self) -> None:
        """It answered."""
        if self._pause_s:
            log("info", "peer_back", peer=self._peer)
        self._pause_s = self._again_at = 0.0
