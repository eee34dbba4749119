"""``make demo``: a mesh of its own from start to stop, with real text; everything is gone afterwards.

It starts broker and workers under supervisord in a temporary run directory, embeds the project's documentation and
the standard library's docstrings, answers questions by semantic search, and compares a warm call with a process
that is spawned for every call.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mesh.cli import status, up
from mlx_mesh.cli.demo_texts import PARAGRAPHS_MAX, paragraphs
from mlx_mesh.cli.output import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, CommandError, count, note, say, told
from mlx_mesh.cli.progress_bar import ProgressBar
from mlx_mesh.cli.starting import wait_until_ready
from mlx_mesh.cli.table import duration, milliseconds, percentile, table
from mlx_mesh_wire import MeshError
from mlx_mesh_wire.paths import ENDPOINT_VARIABLE, RUN_DIR_VARIABLE
from mlx_mesh_wire.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh import Mesh
    from mlx_mesh.cli.demo_texts import Paragraph

QUESTIONS = (
    "What does the broker do with the jobs of a worker that is lost?",
    "How do I run another program and get its output and exit code?",
    "How do I create a temporary file that is deleted when it is closed?",
    "How do several threads wait for each other?",
)
BEGINNING = """\
This demo starts a mesh of its own, embeds real text, answers questions by comparing vectors, measures what a warm
model is worth, and stops everything. It takes about half a minute; Ctrl-C stops it cleanly at any time."""
ENDING = """
Everything is stopped. A mesh that stays: make up, then .venv/bin/mlx-mesh embed "hello"; make down stops it."""
TOP = 3
PART = 128
"""Paragraphs of one call: enough for both workers, few enough that the progress bar moves."""
WARM_CALLS = 100
COLD_CALLS = 5
READY_WITHIN_S = 120.0
STOPPED_WITHIN_S = 90.0

COLD_CALL = """\
import sys
from mlx_mesh_wire import messages, pack_body
from mlx_mesh_worker.engines.embed import EmbedEngine
from mlx_mesh_worker.job import Job
engine = EmbedEngine()
engine.mark = len
engine.load()
message = messages.Job(1, 1, bytes(16), 1, "embed", "", 0, 60000, 0, 0, b"", "")
engine.admit(Job(message, pack_body({"texts": sys.argv[1:]}), 0.0))
(result,) = engine.step()
print(result.value["vectors"].shape)
"""
"""What a service without a mesh does for every call: start Python, load the model, embed one text, exit."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; stop all that it started however it ends."""
    parser = argparse.ArgumentParser(prog="make demo", description=BEGINNING)
    parser.add_argument("--paragraphs", type=int, default=PARAGRAPHS_MAX, metavar="N", help="how many to embed at most")
    limit = parser.parse_args(argv).paragraphs
    if limit < 1:
        parser.error(f"--paragraphs: {limit} is not allowed; allowed: 1 or more")
    up.end_by_interrupt()
    directory = Path(tempfile.mkdtemp(prefix="mesh-", dir="/tmp"))
    os.environ[RUN_DIR_VARIABLE] = str(directory)
    os.environ.pop(ENDPOINT_VARIABLE, None)
    supervisor = Supervisor(directory)
    try:
        _show(directory, supervisor, limit)
    except KeyboardInterrupt:
        _ignore_interrupts()
        note("interrupted; stopping what was started")
        status = EXIT_INTERRUPTED
    except (CommandError, MeshError, OSError, subprocess.CalledProcessError) as error:
        note(f"demo: {told(error) if isinstance(error, MeshError) else error}")
        status = EXIT_FAILED
    else:
        status = EXIT_OK
    finally:
        left = _clean_up(directory, supervisor)
    if left:
        note(f"demo: {left}")
        return EXIT_FAILED
    if status == EXIT_OK:
        say(ENDING)
    return status


def _clean_up(directory: Path, supervisor: Supervisor) -> str:
    """Stop the mesh and remove its folder; return what could not be done."""
    _ignore_interrupts()
    try:
        up.stop(supervisor, STOPPED_WITHIN_S)
    except CommandError as error:
        return str(error)
    shutil.rmtree(directory, ignore_errors=True)
    return ""


def _ignore_interrupts() -> None:
    for number in up.INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C would leave the mesh running


def _show(directory: Path, supervisor: Supervisor, limit: int) -> None:
    from mlx_mesh import Mesh

    say(BEGINNING)
    _title(f"A broker and two workers under supervisord, in {directory}")
    sys.stdout.flush()
    up.start(directory, supervisor, up.default_conf())
    wait_until_ready(supervisor, directory, READY_WITHIN_S)
    with Mesh() as mesh:
        texts = paragraphs(limit)
        vectors = _embed(mesh, texts)
        for question in QUESTIONS:
            _answer(mesh, question, texts, vectors)
        _compare(mesh)
        _title("What the broker says (mlx-mesh status)")
        say(status.render(status.gather(mesh.status(), supervisor)))


def _embed(mesh: Mesh, texts: Sequence[Paragraph]) -> list[list[float]]:
    own = sum(paragraph.place.endswith(".md") for paragraph in texts)
    _title(
        f"Embedding {count(len(texts), 'paragraph')} in the bulk lane: "
        f"{own:,} of this project's documentation, {len(texts) - own:,} of Python's docstrings"
    )
    sys.stdout.flush()
    vectors: list[list[float]] = []
    tokens = 0
    started = time.perf_counter()
    with ProgressBar("embedding", "paragraphs", len(texts)) as bar:
        while len(vectors) < len(texts):
            part = texts[len(vectors) : len(vectors) + PART]
            result = mesh.embed([paragraph.text for paragraph in part], lane="bulk", timeout=300.0)
            vectors += result
            tokens += sum(result.tokens)
            bar.show(len(vectors))
    seconds = time.perf_counter() - started
    say(
        f"{duration(seconds)}: {len(texts) / seconds:,.0f} texts/s, {tokens / seconds:,.0f} tokens/s, "
        f"vectors of {result.dimension} numbers by {result.model}"
    )
    return vectors


def _answer(mesh: Mesh, question: str, texts: Sequence[Paragraph], vectors: Sequence[Sequence[float]]) -> None:
    started = time.perf_counter()
    asked = mesh.embed([question], lane="interactive", timeout=10.0)[0]
    seconds = time.perf_counter() - started
    scores = [sum(map(mul, asked, vector)) for vector in vectors]
    best = sorted(range(len(texts)), key=scores.__getitem__, reverse=True)[:TOP]
    _title(f"{question}   (its vector took {milliseconds(seconds)})")
    for i in best:
        say(f"{scores[i]:.3f}  {texts[i].place}")
        say(textwrap.indent(textwrap.fill(textwrap.shorten(texts[i].text, 200, placeholder=" ..."), 110), "       "))


def _compare(mesh: Mesh) -> None:
    _title("One text at a time: warm workers beside a process for every call")
    warm, cold = [], []
    for i in range(WARM_CALLS):
        started = time.perf_counter()
        mesh.embed([f"sentence number {i} that was not asked for before"], lane="interactive", timeout=10.0)
        warm.append(time.perf_counter() - started)
    for i in range(COLD_CALLS):
        started = time.perf_counter()
        command = [sys.executable, "-c", COLD_CALL, f"sentence number {i} for a cold process"]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603  this interpreter, fixed text
        cold.append(time.perf_counter() - started)
    rows = [
        (name, len(times), *(milliseconds(percentile(sorted(times), share)) for share in (0.5, 0.95)))
        for name, times in (("through the mesh", warm), ("process per call", cold))
    ]
    say(table(("", "CALLS", "P50", "P95"), rows, right="CALLS P50 P95"))
    ratio = percentile(sorted(cold), 0.5) / percentile(sorted(warm), 0.5)
    say(f"A warm call is {ratio:,.0f} times as fast; a spawned process starts Python and loads the model every time.")


def _title(text: str) -> None:
    say(f"\n== {text}")


if __name__ == "__main__":
    sys.exit(main())
