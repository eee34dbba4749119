"""Embeds a corpus: a window of requests in the bulk lane, rows written in order, resumable at any time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from mlx_mesh.cli.corpus_input import Batch, Line, batches, read_lines
from mlx_mesh.cli.corpus_output import FLOAT_BYTES, AppendFile, Embedded, JsonlWriter, NpyWriter, Writer
from mlx_mesh.cli.output import fail
from mlx_mesh_wire import MeshError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_mesh import AsyncMesh
    from mlx_mesh.cli.corpus_progress import Paths, Progress

WINDOW = 16
"""Requests under way: enough to keep a machine's workers busy, a quarter of what one client may have outstanding."""

SAVE_EVERY_S = 1.0
"""What an interruption costs is computed again; saving more often would cost more than that."""

LATENCIES_MAX = 100_000
REFUSED_SHOWN = 10
TIMEOUT_S = 600.0
"""For one request. The bulk lane waits behind the others, and a worker may be starting again."""

ABOUT_ONE_TEXT = frozenset({"POISON_REQUEST", "ENGINE_ERROR", "INVALID_REQUEST", "TOO_LARGE"})
"""Errors that one text can cause: the texts of such a request are then sent one by one."""


def normalize_field(*, raw: bool) -> dict[str, bool]:
    """Return the part of an ``embed`` body that leaves vectors unscaled; otherwise the model's folder decides."""
    return {"normalize": False} if raw else {}


class Refused(NamedTuple):
    """A line that has no vector, and why."""

    line: Line
    problem: str


Outcomes = list[Embedded | Refused]


class Corpus:
    """One run over a corpus.

    Args:
        source: the input, at the place that ``progress`` tells.
        paths: the output.
        progress: how far earlier runs have come.
        parse: takes the text out of a line.
        show: called with the number of lines done.
        skip_bad: leave out bad lines instead of stopping at the first.

    Attributes:
        progress: how far it has come.
        refused: texts that this run could not get a vector for, the first of them.
        latencies: seconds that the requests of this run took.
    """

    def __init__(
        self,
        source: IO[bytes],
        paths: Paths,
        progress: Progress,
        parse: Callable[[str], str],
        show: Callable[[int], None],
        *,
        skip_bad: bool = False,
    ) -> None:
        self.progress = progress
        self.refused: list[Refused] = []
        self.latencies: deque[float] = deque(maxlen=LATENCIES_MAX)
        self._paths = paths
        self._show = show
        self._skip_bad = skip_bad
        self._batches = batches(read_lines(source, parse, offset=progress.offset, number=progress.line))
        self._body = normalize_field(raw=progress.options["raw"] == "yes")
        self._started = self._saved = time.monotonic()
        self._earlier_s = progress.seconds
        self._writer: Writer
        self._skipped: AppendFile

    async def run(self, mesh: AsyncMesh) -> None:
        """Embed what is left. However it ends, what is done stays done.

        Raises:
            CommandError: a bad line, or the model changed on the way.
            MeshError: the mesh could not answer; another run goes on from here.
        """
        with contextlib.ExitStack() as stack:
            kind = NpyWriter if self._paths.out.suffix == ".npy" else JsonlWriter
            self._writer = kind(self._paths.partial, self.progress.size)
            stack.callback(self._writer.close)
            self._skipped = AppendFile(self._paths.skipped, self.progress.skipped_size)
            stack.callback(self._skipped.close)
            stack.callback(self._save)
            await self._pump(mesh)
        self._paths.finish(self.progress.skipped)

    async def _pump(self, mesh: AsyncMesh) -> None:
        waiting: deque[tuple[Batch, asyncio.Task[Outcomes]]] = deque()
        try:
            # Reading in a thread: standard input may be slow, and the connection has to be served meanwhile.
            while (batch := await asyncio.to_thread(next, self._batches, None)) is not None:
                if batch.bad and not self._skip_bad:
                    fail(f"line {batch.bad[0].number}: {batch.bad[0].problem}; such lines are left out with --skip-bad")
                waiting.append((batch, asyncio.create_task(self._embed(mesh, batch.good))))
                while waiting and (len(waiting) >= WINDOW or waiting[0][1].done()):
                    self._take(waiting[0][0], await waiting[0][1])
                    waiting.popleft()
            while waiting:
                self._take(waiting[0][0], await waiting[0][1])
                waiting.popleft()
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _embed(self, mesh: AsyncMesh, lines: list[Line]) -> Outcomes:
        """Return the lines with their vectors. A request that fails because of one text is split into its texts."""
        if not lines:
            return []
        started = time.monotonic()
        try:
            result = await mesh.call(
                "embed",
                {"texts": [line.text for line in lines], **self._body},
                model=self.progress.options["model"],
                lane="bulk",
                timeout=TIMEOUT_S,
                wait_for_ready=True,
            )
        except MeshError as error:
            if error.code not in ABOUT_ONE_TEXT:
                raise
            if len(lines) == 1:
                return [Refused(lines[0], str(error))]
            return [outcome for line in lines for outcome in await self._embed(mesh, [line])]
        self.latencies.append(time.monotonic() - started)
        return self._rows(lines, result)

    def _rows(self, lines: list[Line], result: dict[str, Any]) -> Outcomes:
        """Return a row for each line. The first answer says which model and dimension all others must have."""
        rows, dimension = result["vectors"].shape
        if not self.progress.model:
            self.progress = self.progress._replace(model=result["model"], dimension=dimension)
        expected = (len(lines), self.progress.model, self.progress.dimension)
        if (rows, result["model"], dimension) != expected:
            fail(
                f"the workers answered with {rows} vectors of {dimension} numbers by {result['model']}, expected "
                "were {} by {} of {}; name one model with --model, or begin again with --restart".format(*expected)
            )
        data = memoryview(result["vectors"].data)
        width = dimension * FLOAT_BYTES
        truncated = set(result["truncated"])
        return [
            Embedded(line, data[i * width : (i + 1) * width], tokens, i in truncated)
            for i, (line, tokens) in enumerate(zip(lines, result["tokens"], strict=True))
        ]

    def _take(self, batch: Batch, outcomes: Outcomes) -> None:
        """Write the outcome of the oldest batch. It counts only once ``progress`` is replaced, at the end."""
        rows = [outcome for outcome in outcomes if isinstance(outcome, Embedded)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        self.refused += refused[: REFUSED_SHOWN - len(self.refused)]
        refused += [Refused(line, line.problem) for line in batch.bad]
        self._writer.write(rows)
        for line, problem in sorted(refused):
            self._skipped.append(json.dumps({"line": line.number, "problem": problem}) + "\n")
        known = self.progress
        self.progress = known._replace(
            offset=batch.end,
            line=batch.last,
            size=self._writer.size(),
            rows=known.rows + len(rows),
            tokens=known.tokens + sum(row.tokens for row in rows),
            truncated=known.truncated + sum(row.truncated for row in rows),
            skipped=known.skipped + len(refused),
            skipped_size=self._skipped.size(),
            seconds=self._earlier_s + time.monotonic() - self._started,
        )
        self._show(self.progress.line)
        if time.monotonic() - self._saved >= SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        """Bring the rows to the disk first, then the word that they are there."""
        self._saved = time.monotonic()
        self._writer.flush()
        self._skipped.flush()
        self.progress.save(self._paths.progress)
