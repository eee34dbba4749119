"""How much of the prompts is read between two tokens of the running texts."""

from __future__ import annotations

from typing import Final

SHARE: Final = 1.5
"""Where a step of the running texts takes long itself, prompts take this much of its time on top. Less would leave
places empty while prompts wait, and a step with few rows takes nearly as long as one with many.
"""

IDLE_S: Final = 0.1
"""Longest piece while no text runs: a cancel or a more urgent prompt waits no longer than that."""

PIECE_MIN: Final = 16
"""A pass of the model costs much the same for so many tokens as for one."""

PIECE_MAX: Final = 4096
PIECE_FIRST: Final = 64
"""Before anything was measured."""

FAR: Final = 512
"""So far into a text the tokens before show in the time of a piece; nearer they tell little of it."""

PRESSED_MAX: Final = 128
"""Largest piece while memory is short: what a model needs for reading grows with the piece."""

SMOOTHING: Final = 0.2
"""Weight of the newest measurement."""


class Pace:
    """Sizes the pieces from what was measured.

    A pass takes a fixed time, some for each token, and for each token some for each of those before it.

    Args:
        gap_s: time between two tokens of a running text that reading should not exceed.

    Attributes:
        pass_s: seconds of a pass over one token.
        token_s: seconds that each further token takes, at the beginning of a text.
        seen_s: seconds that it takes more for each token before it.
        decode_s: seconds that a step of the running texts takes.
        pressed: memory is short.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self.pass_s = 0.0
        self.token_s = 0.0
        self.seen_s = 0.0
        self.decode_s = 0.0
        self.pressed = False

    def read(self, tokens: int, seconds: float, *, passes: int = 1, before: int = 0) -> None:
        """So many tokens took so long to read, in so many passes, behind ``before`` others."""
        each = max(seconds / 4, seconds - passes * self.pass_s) / tokens
        if before < FAR:
            self.token_s = _smoothed(self.token_s, max(each - before * self.seen_s, each / 4))
        else:
            self.seen_s = _smoothed(self.seen_s, max(0.0, each - self.token_s) / before)

    def decoded(self, seconds: float) -> None:
        """A step of the running texts took so long."""
        self.decode_s = _smoothed(self.decode_s, seconds)

    def piece(self, *, running: bool, before: int = 0) -> int:
        """Return how many tokens to read in the next piece, behind ``before`` others."""
        most = PRESSED_MAX if self.pressed else PIECE_MAX
        if not self.token_s:
            return min(PIECE_FIRST, most)
        seconds = max(self._gap_s - self.decode_s, SHARE * self.decode_s) if running else IDLE_S
        return max(PIECE_MIN, min(most, int((seconds - self.pass_s) / (self.token_s + before * self.seen_s))))


def _smoothed(before: float, newest: float) -> float:
    return before + SMOOTHING * (newest - before) if before else newest
