"""``mlx-mesh embed --file``: checks what it was given, runs the corpus, and sums up."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import IO, TYPE_CHECKING

from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.corpus import Corpus
from mlx_mesh.cli.corpus_input import Line, fingerprint, json_field, plain_text, read_lines
from mlx_mesh.cli.corpus_progress import Paths, Progress, load_progress
from mlx_mesh.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, count, fail, note, told
from mlx_mesh.cli.progress_bar import ProgressBar
from mlx_mesh.cli.table import duration, milliseconds, percentile
from mlx_mesh_wire import MeshError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

OUTPUTS = (".npy", ".jsonl")
BAD_SHOWN = 5
READY_WITHIN_S = 30.0
"""A corpus may be started right behind the mesh."""


def run_file(args: argparse.Namespace) -> int:
    """Embed a corpus into a file."""
    if args.out is None or args.out.suffix not in OUTPUTS:
        given = "" if args.out is None else f", not {args.out}"
        args.usage_error(f"--file needs --out with a name that ends in .npy or .jsonl{given}")
    if not args.out.parent.is_dir():
        fail(f"{args.out.parent} is not a folder")
    if args.out.exists() and not args.restart:
        fail(f"{args.out} exists already; replace it with --restart, or choose another --out")
    from_stdin = str(args.file) == "-"
    parse = json_field(args.field or "text") if args.field or args.file.suffix == ".jsonl" else plain_text
    paths = Paths(args.out)
    source = sys.stdin.buffer if from_stdin else _open(args.file)
    with source:
        progress, total = (_fresh(args, ""), 0) if from_stdin else _prepare(args, source, paths, parse)
        require_broker()
        with paths.locked(), ProgressBar("embedding", "lines", total, progress.line) as bar:
            if not progress.line:
                paths.forget()
            corpus = Corpus(source, paths, progress, parse, bar.show, skip_bad=args.skip_bad)
            stopped, status = asyncio.run(_run(corpus))
    if status:
        later = "" if from_stdin else "; run the same command again to go on"
        note(f"mlx-mesh: at line {corpus.progress.line:,}: {stopped}{later}")
    _sum_up(corpus, paths, args.out, finished=not status)
    return EXIT_FAILED if corpus.refused and not args.skip_bad and not status else status


def _fresh(args: argparse.Namespace, source: str) -> Progress:
    options = {"field": args.field, "model": args.model, "raw": "yes" if args.no_normalize else "no"}
    return Progress(source, options)


def _open(path: Path) -> IO[bytes]:
    if not path.exists():
        fail(f"{path}: there is no such file")
    if not path.is_file():
        fail(f"{path} is not a file")
    return path.open("rb")


def _prepare(
    args: argparse.Namespace, source: IO[bytes], paths: Paths, parse: Callable[[str], str]
) -> tuple[Progress, int]:
    """Return where to go on and how many lines there are, with the source at that place."""
    fresh = _fresh(args, fingerprint(source))
    known = None if args.restart else load_progress(paths.progress)
    if known is not None and (known.source, known.options) != (fresh.source, fresh.options):
        what = "the input has changed" if known.source != fresh.source else "the options are others"
        fail(f"{paths.progress} is of another run ({what}); begin again with --restart")
    total, bad = scan(source, parse)
    if not total:
        fail(f"{args.file} has no lines")
    if bad and not args.skip_bad:
        for line in bad:
            note(f"{args.file}:{line.number}: {line.problem}")
        fail(f"{args.file} has bad lines, see above; correct them, or leave such lines out with --skip-bad")
    progress = known if known is not None and paths.partial.exists() else fresh
    source.seek(progress.offset)
    if progress.line:
        note(f"going on after line {progress.line:,} of {total:,}")
    return progress, total


def scan(source: IO[bytes], parse: Callable[[str], str]) -> tuple[int, list[Line]]:
    """Return how many lines the corpus has and its first bad ones."""
    source.seek(0)
    total = 0
    bad: list[Line] = []
    for line in read_lines(source, parse):
        total = line.number
        if line.problem and len(bad) < BAD_SHOWN:
            bad.append(line)
    return total, bad


async def _run(corpus: Corpus) -> tuple[str, int]:
    """Run it to its end; return why it stopped before, and the exit status."""
    from mlx_mesh import AsyncMesh

    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with AsyncMesh() as mesh:
            await mesh.ready(ops=["embed"], timeout=READY_WITHIN_S)
            await corpus.run(mesh)
    except asyncio.CancelledError:
        return "interrupted", EXIT_INTERRUPTED
    except MeshError as error:
        return f"stopped by {told(error)}", EXIT_FAILED
    return "", EXIT_OK


def _sum_up(corpus: Corpus, paths: Paths, out: Path, *, finished: bool) -> None:
    done = corpus.progress
    if finished and not done.rows:
        note(f"no text had a vector; {out} has no rows")
    elif finished:
        rates = f"{done.rows / done.seconds:,.0f} texts/s, {done.tokens / done.seconds:,.0f} tokens/s"
        note(f"{count(done.rows, 'text')} to {out} in {duration(done.seconds)}: {rates}")
        note(f"model {done.model}, {done.dimension} numbers a vector, {count(done.tokens, 'token')}")
        ordered = sorted(corpus.latencies)
        p50, p95 = (milliseconds(percentile(ordered, share)) for share in (0.5, 0.95))
        note(f"{count(len(ordered), 'request')} in this run: p50 {p50}, p95 {p95}")
    if done.truncated:
        which = "" if out.suffix == ".jsonl" else "; with a .jsonl as --out its rows say which"
        note(f"{count(done.truncated, 'text was', 'texts were')} cut to the model's length{which}")
    if done.skipped:
        note(f"{count(done.skipped, 'line')} left out; see {paths.skipped}")
    for refused in corpus.refused:
        note(f"line {refused.line.number}: {refused.problem}")
