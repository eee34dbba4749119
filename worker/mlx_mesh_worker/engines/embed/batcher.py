"""Which texts are read and computed together. Imports no MLX.

Texts of all jobs form batches by a budget of padded tokens. Jobs take turns, those of a higher lane before those of a
lower; a batch holds nothing of a lower lane than the text it was made for, so that an interactive text does not pay
for bulk ones.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_mesh_worker.engines.embed.tokens import Row
    from mlx_mesh_worker.job import Job

PAD_TO: Final = 8
"""Widths are multiples of this, which suits the vector units and keeps shapes few."""

TURN_OF_THE_OLDEST: Final = 5
"""Every fifth batch is for the job that has waited longest, whatever its lane, so that bulk work never stops."""

LARGE_JOBS_MAX: Final = 4
"""Jobs of several texts that share a batch. If the process dies of it, each is computed again by itself as a whole, and
in all that time an unrelated death would be laid on it.
"""

SUSPECT_MAX_TEXTS: Final = 16
"""A job that must be alone, since a worker died while it computed it, goes first if it has no more texts than this: the
longer it stays under suspicion, the likelier an unrelated death is laid on it. A larger one would hold up the others.
"""

CANDIDATES: Final = 256
"""Texts looked at to fill a batch with others of about the same length."""

COST_OF_A_TEXT_CHARS: Final = 16
"""What reading a text takes beside its characters: 5 us, with 3 million characters in a second."""


class Piece(NamedTuple):
    """One text of a job, as token ids."""

    work: Work
    position: int
    ids: Sequence[int]


class Work:
    """A job under way.

    Attributes:
        unread: texts still to be tokenised, the first last.
        pieces: texts that are tokenised and still to be computed, the longest last.
        tokens: how many each text has that was tokenised.
        truncated: indices of those among them that were cut.
        vectors: results by index, empty while missing.
        missing: how many are missing.
        turn: number of the batch that last had texts of this job; 0 before the first.
        since: number of the batch since which the job waits, be it for its first turn or the next.
    """

    __slots__ = (
        "job", "missing", "normalize", "pieces", "since", "tokens", "truncated", "turn", "unread", "vectors",
    )  # fmt: skip

    def __init__(self, job: Job, texts: Sequence[str], normalize: bool) -> None:
        self.job = job
        self.normalize = normalize
        self.unread = list(reversed(texts))
        self.pieces: list[Piece] = []
        self.tokens: list[int] = []
        self.truncated: list[int] = []
        self.vectors: list[bytes] = [b""] * len(texts)
        self.missing = len(texts)
        self.turn = 0
        self.since = 0

    def read(self, tokenize: Callable[[Sequence[str], int], Sequence[Row]], chars_max: int) -> None:
        """Tokenise the next texts: one of any length, or several of so many characters in all.

        Args:
            tokenize: called with the texts and the index of the first of them.
            chars_max: the bound, which counts the fixed cost of each text too.

        Raises:
            InvalidRequestError: one of them cannot be computed; details name its index.
        """
        texts = [self.unread.pop()]
        room = chars_max - _cost(texts[0])
        while self.unread and (room := room - _cost(self.unread[-1])) >= 0:
            texts.append(self.unread.pop())
        first = len(self.tokens)
        for index, row in enumerate(tokenize(texts, first), first):
            self.tokens.append(len(row.ids))
            self.truncated += [index] * row.truncated
            self.pieces.append(Piece(self, index, row.ids))
        self.pieces.sort(key=lambda piece: len(piece.ids))


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

    def turn(self) -> Work:
        """Begin the next turn and return the job that has it; if it has unread texts it is to read first."""
        self._turn += 1
        waiting = [work for work in self._works.values() if work.pieces or work.unread]
        suspects = [work for work in waiting if work.job.alone and work.missing <= SUSPECT_MAX_TEXTS]
        if suspects:
            return min(suspects, key=lambda work: work.since)
        if self._turn % TURN_OF_THE_OLDEST == 0:
            return min(waiting, key=lambda work: work.since)
        return min(waiting, key=lambda work: (work.job.lane, work.turn))

    def batch(self, first: Work, budget: int) -> list[Piece]:
        """Return the batch of a turn: at least one text, of that job; their padded tokens stay within the budget."""
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

    def _fill(self, first: Work, length: int, room: int) -> list[Piece]:
        """Take further texts no longer than this, the closest in length, of jobs in the same lane or a higher one."""
        if room <= 0:
            return []
        works = self._company(first)
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

    def _company(self, first: Work) -> list[Work]:
        """Return the jobs whose texts may share a batch with that of this one."""
        may = [w for w in self._works.values() if w.pieces and w.job.lane <= first.job.lane and not w.job.alone]
        large = sorted((w for w in may if w.missing > 1 and w is not first), key=lambda w: w.turn)
        left_out = set(map(id, large[LARGE_JOBS_MAX - 1 :]))
        return [work for work in may if id(work) not in left_out]


def _cost(text: str) -> int:
    return len(text) + COST_OF_A_TEXT_CHARS


def padded(length: int) -> int:
    """Return the width that a text of so many tokens takes in a batch."""
    return -(-length // PAD_TO) * PAD_TO
