"""Which texts are computed together. Imports no MLX.

Texts of all jobs form batches by a budget of padded tokens. Jobs take turns, those of a higher lane before those of a
lower; a batch holds nothing of a lower lane than the text it was made for, so that an interactive text does not pay
for bulk ones.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_worker.job import Job

PAD_TO: Final = 8
"""Widths are multiples of this, which suits the vector units and keeps shapes few."""

TURN_OF_THE_OLDEST: Final = 5
"""Every fifth batch is for the job that has waited longest, whatever its lane, so that bulk work never stops."""

CANDIDATES: Final = 256
"""Texts looked at to fill a batch with others of about the same length."""


class Piece(NamedTuple):
    """One text of a job, as token ids."""

    work: Work
    position: int
    ids: Sequence[int]


class Work:
    """A job under way.

    Attributes:
        pieces: texts still to be computed, the longest last.
        vectors: results by index, empty while missing.
        missing: how many are missing.
        turn: number of the batch that last had texts of this job; 0 before the first.
        since: number of the batch since which the job waits, be it for its first turn or the next.
    """

    __slots__ = ("job", "missing", "normalize", "pieces", "since", "tokens", "truncated", "turn", "vectors")

    def __init__(self, job: Job, rows: Sequence[Sequence[int]], truncated: list[int], normalize: bool) -> None:
        self.job = job
        self.normalize = normalize
        self.tokens = [len(row) for row in rows]
        self.truncated = truncated
        self.vectors: list[bytes] = [b""] * len(rows)
        self.missing = len(rows)
        self.turn = 0
        self.since = 0
        order = sorted(range(len(rows)), key=self.tokens.__getitem__)
        self.pieces = [Piece(self, index, rows[index]) for index in order]


class Batcher:
    """The jobs that have texts left, and the choice of the next batch."""

    def __init__(self) -> None:
        self._works: dict[Job, Work] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._works)

    def add(self, work: Work) -> None:
        """Take a job."""
        work.since = self._turn
        self._works[work.job] = work

    def remove(self, job: Job) -> Work | None:
        """Forget a job."""
        return self._works.pop(job, None)

    def next(self, budget: int) -> list[Piece]:
        """Return the texts of the next batch, at least one; their padded tokens stay within the budget if they can."""
        self._turn += 1
        first = self._first()
        anchor = first.pieces.pop()
        batch = [anchor]
        width = padded(len(anchor.ids))
        room = max(1, budget // width)
        if not first.job.alone:
            batch += self._fill(first, len(anchor.ids), room - 1)
        else:
            while first.pieces and len(batch) < room:
                batch.append(first.pieces.pop())
        for piece in batch:
            piece.work.turn = piece.work.since = self._turn
        return batch

    def _first(self) -> Work:
        waiting = [work for work in self._works.values() if work.pieces]
        if self._turn % TURN_OF_THE_OLDEST == 0:
            return min(waiting, key=lambda work: work.since)
        return min(waiting, key=lambda work: (work.job.lane, work.turn))

    def _fill(self, first: Work, length: int, room: int) -> list[Piece]:
        """Take further texts no longer than this, the closest in length, of jobs in the same lane or a higher one."""
        if room <= 0:
            return []
        works = [w for w in self._works.values() if w.pieces and w.job.lane <= first.job.lane and not w.job.alone]
        share = max(1, CANDIDATES // len(works)) if works else 0
        fitting = [
            piece
            for work in works
            for piece in islice((p for p in reversed(work.pieces) if len(p.ids) <= length), share)
        ]
        fitting.sort(key=lambda piece: -len(piece.ids))
        chosen = fitting[:room]
        taken = {(id(piece.work), piece.position) for piece in chosen}
        for work in {id(piece.work): piece.work for piece in chosen}.values():
            work.pieces = [piece for piece in work.pieces if (id(work), piece.position) not in taken]
        return chosen


def padded(length: int) -> int:
    """Return the width that a text of so many tokens takes in a batch."""
    return -(-length // PAD_TO) * PAD_TO
