"""Decides which texts of a model are read, run, wait: by lanes, by memory, by the pace of those that run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_wire import EngineError, MeshError
from mlx_mesh_wire.messages import Lane
from mlx_mesh_worker.engine import Failure
from mlx_mesh_worker.engines.generate.budget import TokenBytes, too_full, too_large
from mlx_mesh_worker.engines.generate.decoder import Decoder
from mlx_mesh_worker.engines.generate.pace import Pace
from mlx_mesh_worker.engines.generate.prefix import PrefixCache
from mlx_mesh_worker.engines.generate.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlx_mesh_worker.engine import Output
    from mlx_mesh_worker.engines.generate.batch import Token
    from mlx_mesh_worker.engines.generate.loader import LoadedModel
    from mlx_mesh_worker.engines.generate.row import Row
    from mlx_mesh_worker.engines.generate.settings import GenerateSettings
    from mlx_mesh_worker.job import Job

LAST_CHANCE_S: Final = 0.25
"""A text that waits for memory is told so this long before its deadline, while its caller still listens."""

WARM_TOKENS: Final = 128


class Scheduler:
    """The texts of one model.

    A row waits, is read, runs, and may be set aside with what it has read (preempted by a more urgent one, or because
    its reader is far behind); it then waits again.

    Args:
        loaded: the model.
        settings: of the engine.
        kv_limit: returns the bytes that the key-value caches may take.
        mark: told the jobs that a step is about to compute.

    Attributes:
        counts: preemptions and generated tokens.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: GenerateSettings,
        kv_limit: Callable[[], int],
        mark: Callable[[Iterable[Job]], None],
    ) -> None:
        self._loaded = loaded
        self._rows_max = settings.rows
        self._kv_limit = kv_limit
        self._mark = mark
        self._rows: dict[Job, Row] = {}
        self._waiting: list[Row] = []
        self._reader = Reader(loaded.model)
        self._decoder = Decoder(loaded.model, settings.rows)
        self._pace = Pace(settings.gap_ms / 1e3)
        self.prefixes = PrefixCache(settings.prefix_max_bytes)
        self._token_bytes: TokenBytes | None = None
        self._decoded_last = False
        self.counts = {"preemptions": 0, "generated_tokens": 0, "read_tokens": 0}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the caches of all rows, without those of the prefix cache."""
        return self._decoder.nbytes + self._reader.nbytes + sum(row.nbytes for row in self._waiting)

    def counters(self) -> dict[str, int]:
        """Return what was counted."""
        return dict(self.counts)

    def warm(self) -> None:
        """Measure what a text takes, and let the model read and generate."""
        from mlx_lm.models.cache import make_prompt_cache

        self._token_bytes = TokenBytes(self._loaded.model)
        import mlx.core as mx

        make: Any = make_prompt_cache
        for tokens in (WARM_TOKENS, 1, WARM_TOKENS):  # The first time memory is fetched and code is made.
            cache = make(self._loaded.model)
            before = time.monotonic()
            self._loaded.model(mx.zeros((1, tokens), mx.int32), cache=cache)
            mx.eval([layer.state for layer in cache])
            seconds = time.monotonic() - before
            if tokens == 1:
                self._pace.pass_s = seconds
        self._pace.read(WARM_TOKENS, seconds)
        mx.eval(self._loaded.model(mx.zeros((1, 1), mx.int32), cache=cache))

    def admit(self, row: Row) -> None:
        """Take a row in.

        Raises:
            MeshOutOfMemoryError: it would need more than there is.
        """
        row.reserved = self._bytes(len(row.context) + row.remaining)
        if row.reserved > self._kv_limit():
            raise too_large(row.reserved, self._kv_limit(), len(row.context) + row.remaining)
        self._rows[row.job] = row
        self._waiting.append(row)

    def cancel(self, job: Job) -> None:
        """Take a row out, wherever it is; what it has read is kept for a text that begins alike."""
        row = self._rows.get(job)
        if row is None:
            return
        if row in self._decoder:
            cache, held = self._decoder.cache_of(row)
        else:
            cache, held = row.cache or [], row.fed
        self._drop(row)
        if held:
            self._keep(row.context[:held], cache)

    def step(self) -> list[Output]:
        """Let rows in as far as there is room; then read a piece of the prompts, or generate a token for each row."""
        now = time.monotonic()
        outputs = self._let_in(now)
        reading, running = len(self._reader), len(self._decoder)
        if reading and (self._decoded_last or not running):
            self._decoded_last = False
            self._read(now, running=running > 0)
        elif running:
            self._decoded_last = True
            outputs += self._decode(now, wait=reading > 0)
        return outputs

    def trim(self, level: int) -> None:
        """Read in smaller pieces for a while; from level 2 on forget what was read before."""
        self._pace.press(time.monotonic())
        if level > 1:
            self.prefixes.clear()

    def _bytes(self, tokens: int) -> int:
        assert self._token_bytes is not None  # noqa: S101  it is warm
        return self._token_bytes.of(tokens)

    def _let_in(self, now: float) -> list[Output]:
        """Begin with waiting rows, the most urgent first, while there are places and memory for them."""
        outputs: list[Output] = []
        for row in sorted(self._waiting, key=lambda row: (row.job.lane, row.job.accepted)):
            if row.paused:
                continue
            if row.remaining <= 0:  # An earlier attempt had come to the end, and its end was lost.
                self._drop(row)
                outputs.append(row.result("length", now, self._loaded.names[0]))
                continue
            if len(self._reader) + len(self._decoder) >= self._rows_max and not self._preempt(row, now, outputs):
                break
            if row not in self._waiting:  # It ended while places were made.
                continue
            if not self._make_room(row, now, outputs):
                if now >= row.job.deadline - LAST_CHANCE_S:
                    outputs.append(self._fail(row, too_full(row.reserved, self._kv_limit(), self._taken())))
                    continue
                break
            if row in self._waiting:
                self._begin(row, now)
        return outputs

    def _begin(self, row: Row, now: float) -> None:
        self._waiting.remove(row)
        row.began = row.began or now
        if row.cache is None:
            cache, cached = self.prefixes.fetch(row.context)
            row.cached = min(cached, len(row.prompt))
            self._reader.begin(row, cache, cached)
            self._join_read()
        elif row.rest:
            self._reader.begin(row, row.cache, row.fed)
        else:
            self._join(row)

    def _taken(self) -> int:
        """Return the bytes that rows take or may come to take, whichever is more."""
        reserved = sum(row.reserved for row in (*self._reader.rows, *self._decoder.rows))
        held = self._decoder.nbytes + self._reader.nbytes
        return max(reserved, held) + sum(row.nbytes for row in self._waiting)

    def _make_room(self, row: Row, now: float, outputs: list[Output]) -> bool:
        """Return whether the memory for a row is there, forgetting prefixes and setting bulk texts aside for it."""
        if self._free_for(row) < 0 and not len(self._reader) and not len(self._decoder):
            for other in self._waiting:  # Nothing will become free: what was set aside is read again.
                if other is not row:
                    other.cache, other.fed = None, 0
        while (free := self._free_for(row)) < 0 and self._preempt(row, now, outputs, forget=True):
            pass
        if free < 0 and (len(self._reader) or len(self._decoder)):
            return False
        self.prefixes.shrink(max(0, free))
        return True

    def _free_for(self, row: Row) -> int:
        """Return the bytes that are left when this row is taken in; below zero if it does not fit."""
        assert self._token_bytes is not None  # noqa: S101  it is warm
        growth = self._decoder.growth(row, len(self._reader)) * self._token_bytes.each
        return self._kv_limit() - self._taken() + row.nbytes - max(row.reserved, growth)

    def _preempt(self, urgent: Row, now: float, outputs: list[Output], *, forget: bool = False) -> bool:
        """Set the bulk text that began last aside for an interactive one; False if there is none."""
        if urgent.job.lane != Lane.INTERACTIVE:
            return False
        running = [row for row in self._decoder.rows if row.job.lane == Lane.BULK]
        if not running:
            return False
        row = max(running, key=lambda row: row.began)
        outputs += self._set_aside([row], now)
        if forget and row in self._waiting:
            row.cache, row.fed = None, 0
        self.counts["preemptions"] += 1
        return True

    def _set_aside(self, rows: Sequence[Row], now: float) -> list[Output]:
        """Take running rows out of the batch with what was read; they wait then, unless they end by that."""
        outputs = self._taken_in(self._decoder.flush(), now)
        left = [row for row in rows if row in self._decoder]
        for row in left:
            row.cache, row.fed = self._decoder.cache_of(row)
        self._decoder.leave(left)
        self._waiting += left
        return outputs

    def _join(self, row: Row) -> None:
        assert row.cache is not None  # noqa: S101  it was read
        self._decoder.join(row, row.cache, row.context[-1])
        row.cache = None

    def _join_read(self) -> None:
        for row in self._reader.finished():
            self._join(row)

    def _read(self, now: float, *, running: bool) -> None:
        pieces = self._reader.choose(self._pace.piece(now, running=running))
        self._mark([row.job for row, _ in pieces])
        try:
            self._reader.read(pieces)
        except Exception:
            for row, _ in pieces:  # What their caches hold is not known.
                row.cache, row.fed = None, 0
                self._reader.rows.remove(row)
                self._waiting.append(row)
            raise
        tokens = sum(take for _, take in pieces)
        self.counts["read_tokens"] += tokens
        self._pace.read(tokens, time.monotonic() - now, len(pieces))
        for row, _ in pieces:
            if row.fed == row.system and row.cache is not None:
                self._keep(row.context[: row.fed], row.cache, system=True)
        self._join_read()

    def _decode(self, now: float, *, wait: bool) -> list[Output]:
        """Do a step of the rows that run; ``wait`` for its tokens, since the model reads next."""
        moving = self._decoder.outgrown() + [row for row in self._decoder.rows if row.cleared]
        outputs = self._set_aside(moving, now) if moving else []
        for row in [row for row in moving if row in self._waiting]:
            row.solo = row.solo and not row.cleared
            self._waiting.remove(row)
            self._join(row)
        batches = self._decoder.turn()
        self._mark([row.job for batch in batches for row in batch.rows])
        try:
            for batch in batches:
                outputs += self._taken_in(batch.step(), time.monotonic())
            if wait:
                tokens = self._decoder.flush()
                self._pace.decoded(time.monotonic() - now)
                outputs += self._taken_in(tokens, time.monotonic())
        except Exception:
            self._decoder.clear()  # What it holds is in an unknown state.
            raise
        behind = [row for row in self._decoder.rows if row.paused]
        return outputs + self._set_aside(behind, now) if behind else outputs

    def _taken_in(self, tokens: Sequence[Token], now: float) -> list[Output]:
        """Give out tokens; let rows go that ended with theirs."""
        outputs: list[Output] = []
        ended: list[tuple[Row, str]] = []
        for token in tokens:
            row = token.row
            if row.job not in self._rows:
                continue
            row.first = row.first or now
            if token.error is not None or not token.sound:
                why = token.error or "the model gave no finite numbers"
                outputs.append(self._fail(row, _error(why, len(row.tokens))))
                continue
            self.counts["generated_tokens"] += 1
            reason = row.advance(token, self._loaded.end_tokens)
            if reason is None:
                outputs += row.chunk()
            else:
                ended.append((row, reason))
        for row, reason in ended:
            cache, held = self._decoder.cache_of(row)
            self._keep(row.context[:held], cache)
            outputs.append(row.result(reason, now, self._loaded.names[0]))
            del self._rows[row.job]
        if ended:
            self._decoder.leave([row for row, _ in ended])
        return outputs

    def _keep(self, tokens: Sequence[int], cache: list[Any], *, system: bool = False) -> None:
        """Keep what was read for other texts, as far as memory allows."""
        if system:
            import copy

            cache = copy.deepcopy(cache)
        self.prefixes.store(tokens, cache, system=system)
        self.prefixes.shrink(max(0, self._kv_limit() - self._taken()))

    def _drop(self, row: Row) -> None:
        del self._rows[row.job]
        if row in self._decoder:
            self._decoder.leave([row])
        for rows in (self._reader.rows, self._waiting):
            if row in rows:
                rows.remove(row)

    def _fail(self, row: Row, error: MeshError) -> Output:
        self._drop(row)
        return Failure(row.job, error)


def _error(why: Exception | str, place: int) -> MeshError:
    return why if isinstance(why, MeshError) else EngineError(f"token {place}: {why}"[:800])
