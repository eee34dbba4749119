"""Decides which texts of a model are read, run, wait: by lanes, by memory, by the pace of those that run."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from mlx_mesh_wire.messages import Lane
from mlx_mesh_worker.engine import Failure
from mlx_mesh_worker.engines.generate.budget import read_blank, too_full
from mlx_mesh_worker.engines.generate.cpu import slow_exponentials
from mlx_mesh_worker.engines.generate.decoder import Decoder
from mlx_mesh_worker.engines.generate.reading import Reader
from mlx_mesh_worker.engines.generate.slots import capacity_for, snug
from mlx_mesh_worker.engines.generate.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlx_mesh_wire import MeshError
    from mlx_mesh_worker.engine import Output
    from mlx_mesh_worker.engines.generate.batch import Token
    from mlx_mesh_worker.engines.generate.loader import LoadedModel
    from mlx_mesh_worker.engines.generate.row import Row
    from mlx_mesh_worker.engines.generate.settings import GenerateSettings
    from mlx_mesh_worker.job import Job

LAST_CHANCE_S: Final = 0.25
"""A text that waits for memory is told so this long before its deadline, while its caller still listens."""

WARM_TOKENS: Final = 128


class Scheduler(Texts):
    """Texts that are generated together.

    A row waits, is read, runs, and may be set aside with what it has read (preempted by a more urgent one, or because
    its reader is far behind); it then waits again.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: GenerateSettings,
        kv_limit: Callable[[], int],
        mark: Callable[[Iterable[Job]], None],
    ) -> None:
        super().__init__(loaded, settings, kv_limit, mark)
        self._rows_usual = self._rows_max = settings.rows
        self._reader = Reader(loaded.model)
        self._decoder = Decoder(loaded.model, settings.rows)
        self._decoded_last = False
        self._ahead = not slow_exponentials()  # Such a CPU gains nothing by it: what is started is waited for.
        self._outputs: list[Output] = []  # those of a step that raised are given out by the next one

    def __len__(self) -> int:
        return len(self._rows) + bool(self._outputs)

    @property
    def nbytes(self) -> int:
        """Bytes of the caches of all rows, without those of the prefix cache."""
        return self._decoder.nbytes + self._reader.nbytes + sum(row.nbytes for row in self._waiting)

    def warm(self) -> None:
        """Measure what a text takes and how long it takes, and let the model read and generate."""
        super().warm()
        for tokens in (WARM_TOKENS, 1, WARM_TOKENS):  # The first time memory is fetched and code is made.
            before = time.monotonic()
            cache = read_blank(self._loaded.model, tokens)
            seconds = time.monotonic() - before
            if tokens == 1:
                self._pace.pass_s = seconds
        self._pace.read(WARM_TOKENS, seconds)
        mx.eval(self._loaded.model(mx.zeros((1, 1), mx.int32), cache=cache))

    def cancel(self, job: Job) -> None:
        """Take a row out, wherever it is; what it has read is kept for a text that begins alike."""
        self._outputs = [output for output in self._outputs if output.job is not job]
        row = self._rows.get(job)
        if row is None:
            return
        found = (row.cache, row.fed) if row.cache else None
        try:
            found = self._decoder.cache_of(row) if row in self._decoder else found
        finally:
            self._drop(row)
        if found:
            self._keep(row.context[: found[1]], found[0])

    def trim(self, level: int) -> None:
        """From level 2 on let in no more than half of the rows, too, until level 0; those that run go on."""
        super().trim(level)
        if level > 1:
            self._rows_max = max(1, self._rows_usual // 2)
            with self._salvaging():
                self._decoder.compact()
        elif not level:
            self._rows_max = self._rows_usual

    def step(self) -> list[Output]:
        """Let rows in as far as there is room; then read a piece of the prompts, or generate a token for each row."""
        now = time.monotonic()
        with self._salvaging():
            self._let_in(now)
        reading, running = len(self._reader), len(self._decoder)
        if reading and (self._decoded_last or not running):
            self._decoded_last = False
            self._read(now, running=running > 0)
        elif running:
            self._decoded_last = True
            with self._salvaging():
                self._decode(now, wait=reading > 0 or not self._ahead)
        outputs, self._outputs = self._outputs, []
        return outputs

    @contextmanager
    def _salvaging(self) -> Iterator[None]:
        """If this raises, what the caches of the running rows hold is not known; those not to blame are read again."""
        try:
            yield
        except Exception:
            for row in self._decoder.rows:
                row.unread()
                if row.job in self._rows:
                    self._waiting.append(row)
            self._decoder.clear()
            raise

    def _let_in(self, now: float) -> None:
        """Begin with waiting rows, the most urgent first, while there are places and memory for them."""
        for row in sorted(self._waiting, key=lambda row: (row.job.lane, row.job.accepted)):
            if row.paused:
                continue
            if (end := self._ended_before(row, now)) is not None:
                self._outputs.append(end)
                continue
            if len(self._reader) + len(self._decoder) >= self._rows_max and not self._preempt(row, now):
                break
            if not self._make_room(row, now):
                if now >= row.job.deadline - LAST_CHANCE_S:
                    self._fail(row, too_full(row.reserved, self._kv_limit(), self._taken()))
                    continue
                break
            self._begin(row, now)

    def _begin(self, row: Row, now: float) -> None:
        self._mark([row.job])
        self._waiting.remove(row)
        if row.cache is None:
            cache, cached = self.prefixes.fetch(row.context)
            if not row.began:
                row.cached = min(cached, len(row.prompt))
            self._reader.begin(row, cache, cached)
            self._join_read()
        elif row.rest:
            self._reader.begin(row, row.cache, row.fed)
        else:
            self._join(row)
        row.began = row.began or now

    def _taken(self, row: Row | None = None) -> int:
        """Return the bytes that rows take or may come to take, whichever is more; as if this one had begun too."""
        begun = [*self._reader.rows, *([] if row is None else [row])]
        reserved = sum(each.reserved for each in (*begun, *self._decoder.rows))
        read = sum(capacity_for(each.need) for each in begun if each.cache is None or each.rest)
        owed = self._decoder.growth([])  # to rows of one token, which get their places with their first step
        room = max(owed + read, self._decoder.growth(begun))
        to_come = room * self._token_bytes.each + len(begun) * self._token_bytes.fixed
        held = self._decoder.nbytes + max(to_come, self._reader.nbytes)
        return max(reserved, held) + sum(each.nbytes for each in self._waiting if each is not row)

    def _make_room(self, row: Row, now: float) -> bool:
        """Return whether the memory for a row is there, forgetting prefixes and setting bulk texts aside for it."""
        if self._free_for(row) < 0 and not len(self._reader) and not len(self._decoder):
            for other in self._waiting:  # Nothing will become free: what was set aside is read again.
                if other is not row:
                    other.unread()
        if self._free_for(row) < 0:
            self._decoder.compact()
        while (free := self._free_for(row)) < 0 and self._preempt(row, now, forget=True):
            pass
        if free < 0 and (len(self._reader) or len(self._decoder)):
            return False
        self.prefixes.shrink(max(0, free))
        return True

    def _free_for(self, row: Row) -> int:
        """Return the bytes that are left when this row is taken in; below zero if it does not fit."""
        return self._kv_limit() - self._taken(row)

    def _preempt(self, urgent: Row, now: float, *, forget: bool = False) -> bool:
        """Set the bulk text that began last aside for an interactive one; False if there is none."""
        if urgent.job.lane != Lane.INTERACTIVE:
            return False
        running = [row for row in self._decoder.rows if row.job.lane == Lane.BULK]
        if not running:
            return False
        row = max(running, key=lambda row: row.began)
        self._set_aside([row], now)
        if forget and row in self._waiting:
            row.unread()
        self.counts["preemptions"] += 1
        return True

    def _set_aside(self, rows: Sequence[Row], now: float) -> list[Row]:
        """Take running rows out of the batch with what was read; return those that wait now, since they did not end."""
        self._take_in(self._decoder.flush(), now)
        left = [row for row in rows if row in self._decoder]
        for row in left:
            row.cache, row.fed = self._decoder.cache_of(row)
        self._decoder.leave(left)
        self._waiting += left
        if self._taken() > self._kv_limit():
            self._decoder.compact()
        self.prefixes.shrink(max(0, self._kv_limit() - self._taken()))
        return left

    def _join(self, row: Row) -> None:
        assert row.cache is not None  # noqa: S101  it was read
        self._decoder.join(row, row.cache, row.context[-1])
        row.cache = None

    def _join_read(self) -> None:
        for row in self._reader.finished():
            self._join(row)

    def _read(self, now: float, *, running: bool) -> None:
        pieces = self._reader.choose(lambda before: self._pace.piece(running=running, before=before))
        before = pieces[0][0].fed
        self._mark([row.job for row, _ in pieces])
        try:
            self._reader.read(pieces)
        except Exception:
            for row, _ in pieces:  # What their caches hold is not known.
                row.unread()
                self._reader.rows.remove(row)
                self._waiting.append(row)
            raise
        tokens = sum(take for _, take in pieces)
        self.counts["read_tokens"] += tokens
        self._pace.read(tokens, time.monotonic() - now, passes=len(pieces), before=before)
        for row, _ in pieces:
            if row.fed == row.system and row.cache is not None:
                self._keep(row.context[: row.fed], row.cache, system=True)
        with self._salvaging():
            self._join_read()

    def _decode(self, now: float, *, wait: bool) -> None:
        """Do a step of the rows that run; ``wait`` for its tokens, since the model reads next."""
        cleared = [row for row in self._decoder.rows if row.cleared]
        moving = list(dict.fromkeys([*self._decoder.outgrown(), *cleared]))
        for row in self._set_aside(moving, now) if moving else ():
            row.solo = row.solo and not row.cleared
            free = self._free_for(row)
            if free >= 0 or not (len(self._decoder) or len(self._reader)):
                self.prefixes.shrink(max(0, free))
                self._waiting.remove(row)
                self._join(row)
        batches = self._decoder.turn()
        self._mark([row.job for batch in batches for row in batch.rows])
        for batch in batches:
            self._take_in(batch.step(), time.monotonic())
        if wait or self._decoder.suspects:  # Nothing of a suspect is computed in the turn of others.
            tokens = self._decoder.flush()
            self._pace.decoded(time.monotonic() - now)
            self._take_in(tokens, time.monotonic())
        behind = [row for row in self._decoder.rows if row.paused]
        if behind:
            self._set_aside(behind, time.monotonic())

    def _take_in(self, tokens: Sequence[Token], now: float) -> None:
        """Give out tokens; let rows go that ended with theirs."""
        ended: list[Row] = []
        for token in tokens:
            row = token.row
            if row.job not in self._rows:
                continue
            row.first = row.first or now
            reason, wrong = row.advance(token, self._loaded.end_tokens)
            if wrong is not None:
                self._fail(row, wrong)
                continue
            self.counts["generated_tokens"] += 1
            if reason is None:
                self._outputs += row.chunk()
            else:
                self._outputs.append(self._end(row, reason, now))
                ended.append(row)
        if ended:
            caches = [self._decoder.cache_of(row) for row in ended] if self.prefixes.max_bytes else []
            self._decoder.leave(ended)
            for row, (cache, held) in zip(ended, caches, strict=False):
                self._keep(row.context[:held], cache)

    def _keep(self, tokens: Sequence[int], cache: list[Any], *, system: bool = False) -> None:
        """Keep what was read for other texts, as far as memory allows."""
        self.prefixes.store(tokens, snug(cache), system=system)
        self.prefixes.shrink(max(0, self._kv_limit() - self._taken()))

    def _drop(self, row: Row) -> None:
        del self._rows[row.job]
        if row in self._decoder:
            self._decoder.leave([row])
        for rows in (self._reader.rows, self._waiting):
            if row in rows:
                rows.remove(row)

    def _fail(self, row: Row, error: MeshError) -> None:
        self._drop(row)
        self._outputs.append(Failure(row.job, error))
