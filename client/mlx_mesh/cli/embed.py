"""``mlx-mesh embed``: vectors of a few texts on stdout, or of a whole corpus into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from mlx_mesh.cli.arguments import add_parser, seconds
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.corpus_output import FLOAT_BYTES, json_vector, npy_header
from mlx_mesh.cli.output import EXIT_OK, count, fail, note, say
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

ABOUT = """\
Embed a few texts and write their vectors to standard output, or embed a whole corpus into a file."""

MORE = """\
examples:
  mlx-mesh embed "hello"                                  one JSON array of numbers for each text
  mlx-mesh embed --format jsonl "one" "two"               as JSON objects: text, tokens, truncated, vector
  mlx-mesh embed - < names.txt                            one text for each line of standard input
  mlx-mesh embed --file docs.jsonl --out docs.npy         a corpus, in the bulk lane; one row for each line
  mlx-mesh embed --file docs.txt --out docs.jsonl         the same as JSON objects: line, tokens, truncated, vector

A corpus run that was interrupted goes on where it stopped when the same command is run again. A text that is longer
than the model reads is cut, and that is told."""

TEXTS_AT_ONCE = 256
TIMEOUT_S = 60.0
CUT_SHOWN = 10
"""So many texts that were cut are named, the others counted."""


class Text(NamedTuple):
    """A text and the number that people know it by: of the argument, or of the line."""

    number: int
    text: str


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``embed``."""
    parser = add_parser(commands, "embed", summary="embed texts, or a file of them", about=ABOUT, more=MORE)
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="texts; a single - reads them from standard input, one a line"
    )
    parser.add_argument("--model", default="", help="model to use (default: the workers' own)")
    parser.add_argument("--no-normalize", action="store_true", help="do not scale the vectors to length 1")
    few = parser.add_argument_group("a few texts")
    few.add_argument(
        "--format", choices=("json", "jsonl", "npy"),
        help="json: an array a line; jsonl: an object a line; npy: a NumPy file (default: json)",
    )  # fmt: skip
    few.add_argument("--timeout", type=seconds, metavar="SECONDS", help=f"how long to wait (default: {TIMEOUT_S:g} s)")
    few.add_argument("--lane", choices=LANE_NAMES, help="whose turn it is (default: interactive)")
    corpus = parser.add_argument_group("a corpus")
    corpus.add_argument(
        "--file", type=Path, metavar="IN", help="texts, one a line (.txt), JSON objects (.jsonl), or - for stdin"
    )
    corpus.add_argument("--out", type=Path, metavar="OUT", help="where the vectors go: a .npy or .jsonl file")
    corpus.add_argument("--field", default="", help="field of the JSON objects that has the text (default: text)")
    corpus.add_argument(
        "--skip-bad", action="store_true", help="leave out lines that are blank or malformed, and list them"
    )
    corpus.add_argument("--restart", action="store_true", help="begin again, replacing what is there")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Embed the texts of the command line, of standard input, or of a file."""
    if args.file is not None:
        from mlx_mesh.cli.embed_file import run_file

        if args.texts:
            args.usage_error("give either TEXT or --file, not both")
        if args.format or args.timeout or args.lane:
            args.usage_error("--format, --timeout and --lane belong to TEXT; a corpus runs in the bulk lane")
        return run_file(args)
    if args.out is not None or args.field or args.skip_bad or args.restart:
        args.usage_error("--out, --field, --skip-bad and --restart belong to --file")
    if not args.texts:
        args.usage_error("give a TEXT, - for standard input, or --file")
    if args.texts == ["-"]:
        return _few(args, _lines(sys.stdin.buffer), "line")
    if "-" in args.texts:
        args.usage_error("- reads all texts from standard input, so it stands alone")
    return _few(args, [Text(number, text) for number, text in enumerate(args.texts, 1)], "text")


def _lines(stream: IO[bytes]) -> list[Text]:
    """Return the lines of a stream that are not blank."""
    if stream.isatty():
        note("one text a line; Ctrl-D on a line of its own ends them")
    try:
        lines = stream.read().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        fail(f"standard input is not valid UTF-8: {error.reason} at byte {error.start}")
    texts = [Text(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return texts or fail("standard input has no text")


def _few(args: argparse.Namespace, texts: list[Text], word: str) -> int:
    from mlx_mesh import Mesh

    form = args.format or "json"
    for number, text in texts:
        if not text.strip():
            fail(f"text {number} is blank")
    if form == "npy" and sys.stdout.isatty():
        fail("--format npy is not for a terminal; put > vectors.npy behind the command")
    require_broker()
    cut: dict[int, int] = {}
    try:
        with Mesh() as mesh:
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                part = texts[start : start + TEXTS_AT_ONCE]
                body = {"texts": [text for _, text in part], **({"normalize": False} if args.no_normalize else {})}
                lane, timeout = args.lane or "interactive", args.timeout or TIMEOUT_S
                result = mesh.call("embed", body, model=args.model, lane=lane, timeout=timeout)
                _show(form, part, result, len(texts) if start == 0 else 0)
                cut |= {part[index].number: result["tokens"][index] for index in result["truncated"]}
            sys.stdout.flush()
    finally:
        if cut:
            note(f"mlx-mesh: {told_cut(word, cut)}")
    return EXIT_OK


def told_cut(word: str, cut: dict[int, int]) -> str:
    """Return which texts were cut and to how many tokens; ``word`` is what their numbers count."""
    numbers = list(map(str, cut))
    if len(numbers) > CUT_SHOWN:
        named = f"{', '.join(numbers[:CUT_SHOWN])} and {count(len(numbers) - CUT_SHOWN, 'other')}"
    else:
        named = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
    subject = f"{word} {named} was" if len(numbers) == 1 else f"{word}s {named} were"
    return f"{subject} cut to the {max(cut.values())} tokens that the model reads"


def _show(form: str, texts: Sequence[Text], result: dict[str, Any], total: int) -> None:
    """Write the vectors; ``total`` texts in all follow, told with the first of them."""
    data = memoryview(result["vectors"].data)
    dimension = result["vectors"].shape[1]
    if form == "npy":
        sys.stdout.buffer.write((npy_header(total, dimension) if total else b"") + bytes(data))
        return
    import json

    width = dimension * FLOAT_BYTES
    truncated = set(result["truncated"])
    for i, ((_, text), tokens) in enumerate(zip(texts, result["tokens"], strict=True)):
        vector = json_vector(data[i * width : (i + 1) * width])
        cut = json.dumps(i in truncated)
        head = f'{{"text": {json.dumps(text)}, "tokens": {tokens}, "truncated": {cut}, "vector": '
        say(vector if form == "json" else f"{head}{vector}}}")
