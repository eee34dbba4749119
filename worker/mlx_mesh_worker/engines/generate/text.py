"""Tokens to text as they come: no character in halves, nothing of a stop string."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class TextStream:
    """The text of one request.

    Args:
        detokenizer: mlx-lm's, fresh; it holds back bytes that are no whole character yet.
        stops: strings that end the text.

    Attributes:
        stopped: a stop string was found; the text ends before it.
    """

    def __init__(self, detokenizer: Any, stops: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Return the text that can be given out after one more token, often that of this token."""
        self._detokenizer.add_token(token)
        return self._release(self._detokenizer.last_segment)

    def finish(self) -> str:
        """Return what was held back; nothing comes any more."""
        self._detokenizer.finalize()
        text = self._release(self._detokenizer.last_segment)
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _release(self, segment: str) -> str:
        if not self._stops or self.stopped:
            return "" if self.stopped else segment
        text = self._held + segment
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _beginning(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._stops)), 0)
