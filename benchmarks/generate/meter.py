"""Times the tokens of a closed loop of streams; the same arithmetic for everybody."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from benchmarks.figures import percentile

PATIENCE_S = 30.0
"""How long a request that began in time may let us wait for its first token."""


class Track:
    """One request: when it began, when its first and its last piece came, and how many did."""

    def __init__(self, began: float, *, opens: bool) -> None:
        self.began = began
        self.opens = opens
        self.first = math.nan
        self.last = math.nan
        self.pieces = 0


class Meter:
    """Measures for some seconds, from when every stream has its first token.

    Requests that begin within the time are followed to their first token, however late it comes.

    Args:
        streams: that are kept busy.
        seconds: to be measured.
        clock: in seconds.
    """

    def __init__(self, streams: int, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._missing = streams
        self._seconds = seconds
        self._clock = clock
        self._open = math.inf
        self._begun: list[Track] = []
        self._gaps: list[float] = []
        self._tokens = 0
        self._ended_tokens = self._ended_pieces = 0
        self.all_tokens = 0

    @property
    def over(self) -> bool:
        """Whether everything is known."""
        now, close = self._clock(), self._open + self._seconds
        if now < close:
            return False
        return now > close + PATIENCE_S or not any(math.isnan(track.first) for track in self._begun)

    def begin(self, *, opens: bool = False) -> Track:
        """A request is sent; ``opens`` says that it is the first of its stream."""
        track = Track(self._clock(), opens=opens)
        if self._open <= track.began < self._open + self._seconds:
            self._begun.append(track)
        return track

    def piece(self, track: Track, tokens: int) -> None:
        """A piece came that shows something, with so many tokens since the last one that did."""
        now = self._clock()
        inside = self._open <= now < self._open + self._seconds
        self.all_tokens += tokens
        self._tokens += tokens if inside else 0
        if math.isnan(track.first):
            track.first = now
            self._missing -= track.opens
            if track.opens and not self._missing:
                self._open = now
        elif inside and track.last >= self._open:
            # Tokens that come together have no time between them.
            self._gaps += [now - track.last] + [0.0] * (tokens - 1)
        track.last = now
        track.pieces += 1

    def end(self, track: Track, tokens: int) -> None:
        """A request ended; in all it had so many tokens."""
        self._ended_tokens += tokens
        self._ended_pieces += track.pieces

    def figures(self, *, counts_pieces: bool = False) -> dict[str, float]:
        """Return the rate in tokens/s and latencies in milliseconds.

        ``counts_pieces`` is for those who do not say how many tokens a piece has: the rate is then corrected by what
        the requests that ended had for each piece.
        """
        each = self._ended_tokens / self._ended_pieces if counts_pieces and self._ended_pieces else 1.0
        now = self._clock()
        firsts = [(now if math.isnan(track.first) else track.first) - track.began for track in self._begun]
        gaps = self._gaps + [0.0] * round(len(self._gaps) * (each - 1))
        return {
            "tokens_per_s": self._tokens * each / self._seconds,
            "first_p50_ms": _ms(firsts, 0.5),
            "first_p95_ms": _ms(firsts, 0.95),
            "gap_p50_ms": _ms(gaps, 0.5),
            "gap_p99_ms": _ms(gaps, 0.99),
            "firsts": len(firsts),
            "tokens_per_piece": each,
            "all_tokens": self.all_tokens * each,
        }


def _ms(samples: list[float], share: float) -> float:
    return percentile(samples, share) * 1e3 if samples else math.nan
