"""What the texts of a model have in common, whether they are generated together or one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mlx_mesh_worker.engines.generate.budget import TokenBytes, too_large
from mlx_mesh_worker.engines.generate.pace import Pace
from mlx_mesh_worker.engines.generate.prefix import PrefixCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_mesh_worker.engine import Output
    from mlx_mesh_worker.engines.generate.loader import LoadedModel
    from mlx_mesh_worker.engines.generate.row import Row
    from mlx_mesh_worker.engines.generate.settings import GenerateSettings
    from mlx_mesh_worker.job import Job


class Texts(ABC):
    """The texts of one model.

    Args:
        loaded: the model, and the one that drafts for it.
        settings: of the engine.
        kv_limit: returns the bytes that the key-value caches may take.
        mark: told the jobs that a step is about to compute.

    Attributes:
        prefixes: caches of texts that were read before.
        counts: preemptions, tokens generated and tokens read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: GenerateSettings,
        kv_limit: Callable[[], int],
        mark: Callable[[Iterable[Job]], None],
    ) -> None:
        self._loaded = loaded
        self._kv_limit = kv_limit
        self._mark = mark
        self._rows: dict[Job, Row] = {}
        self._waiting: list[Row] = []
        self._pace = Pace(settings.gap_ms / 1e3)
        self._token_bytes: TokenBytes
        self._prefix_max_bytes = settings.prefix_max_bytes
        self.prefixes = PrefixCache(settings.prefix_max_bytes)
        self.counts = {"preemptions": 0, "generated_tokens": 0, "read_tokens": 0}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the caches of all rows, without those of the prefix cache."""

    def warm(self) -> None:
        """Measure what a text takes, and let the model read and generate."""
        self._token_bytes = TokenBytes(self._loaded.model, self._loaded.draft)

    def admit(self, row: Row) -> None:
        """Take a row in.

        Raises:
            MeshOutOfMemoryError: it would need more than there is.
        """
        tokens = len(row.context) + row.remaining
        row.reserved = self._token_bytes.of(tokens)
        if row.reserved > self._kv_limit():
            raise too_large(row.reserved, self._kv_limit(), tokens)
        self._rows[row.job] = row
        self._waiting.append(row)

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Take a row out, wherever it is; what it has read is kept for a text that begins alike."""

    @abstractmethod
    def step(self) -> list[Output]:
        """Do one bounded unit: read a piece of the prompts, or generate."""

    def trim(self, level: int) -> None:
        """Read in smaller pieces; from level 2 on forget what was read before, and keep nothing. Level 0 ends both."""
        self._pace.pressed = level > 0
        if level > 1:
            self.prefixes.clear()
            self.prefixes.max_bytes = 0
        elif not level:
            self.prefixes.max_bytes = self._prefix_max_bytes

    def counters(self) -> dict[str, int]:
        """Return what was counted."""
        return dict(self.counts)

    def _ended_before(self, row: Row, now: float) -> Output | None:
        """Return the end of a waiting text if an earlier attempt had come to it, and only the end was lost."""
        if row.remaining > 0 and not row.text.stopped:
            return None
        self._waiting.remove(row)
        return self._end(row, "stop" if row.text.stopped else "length", now)

    def _end(self, row: Row, reason: str, now: float) -> Output:
        """Forget a row that has come to its end, and return that."""
        del self._rows[row.job]
        return row.result(reason, now, self._loaded.names[0])
