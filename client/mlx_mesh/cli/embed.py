"""``mlx-mesh embed``: vectors of a few texts on stdout, or of a whole corpus into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.corpus_output import FLOAT_BYTES, json_vector, npy_header
from mlx_mesh.cli.output import EXIT_OK, fail, say

if TYPE_CHECKING:
    import argparse

EPILOG = """\
examples:
  mlx-mesh embed "hello"                                  one JSON array of numbers for each text
  mlx-mesh embed - < names.txt                            one text for each line of standard input
  mlx-mesh embed --file docs.jsonl --out docs.npy         a corpus, in the bulk lane; one row for each line
  mlx-mesh embed --file docs.txt --out docs.jsonl         the same as JSON: line, tokens, vector

A corpus run that was interrupted goes on where it stopped when the same command is run again."""

TEXTS_AT_ONCE = 256


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``embed``."""
    import argparse

    parser = commands.add_parser(
        "embed",
        help="embed texts, or a file of them",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="texts; a single - reads them from standard input, one a line"
    )
    parser.add_argument("--model", default="", help="model to use (default: the workers' own)")
    parser.add_argument("--no-normalize", action="store_true", help="do not scale the vectors to length 1")
    few = parser.add_argument_group("a few texts")
    few.add_argument(
        "--format", choices=("json", "jsonl", "npy"), default="json",
        help="json: an array a line; jsonl: an object a line; npy: a NumPy file (default: json)",
    )  # fmt: skip
    few.add_argument("--timeout", type=float, default=60.0, help="seconds to wait (default: %(default)g)")
    few.add_argument(
        "--lane", choices=("interactive", "standard", "bulk"), default="interactive", help="default: interactive"
    )
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
        return run_file(args)
    if args.out is not None or args.field or args.skip_bad or args.restart:
        args.usage_error("--out, --field, --skip-bad and --restart belong to --file")
    if not args.texts:
        args.usage_error("give a TEXT, - for standard input, or --file")
    return _few(args, _lines(sys.stdin.buffer) if args.texts == ["-"] else args.texts)


def _lines(stream: IO[bytes]) -> list[str]:
    """Return the lines of a stream that are not blank."""
    try:
        lines = stream.read().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        fail(f"standard input is not valid UTF-8: {error.reason} at byte {error.start}")
    return [line for line in lines if line.strip()] or fail("standard input has no text")


def _few(args: argparse.Namespace, texts: list[str]) -> int:
    from mlx_mesh import Mesh

    for number, text in enumerate(texts, 1):
        if not text.strip():
            fail(f"text {number} is blank")
    require_broker()
    with Mesh() as mesh:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts[start : start + TEXTS_AT_ONCE]
            body = {"texts": part, **({"normalize": False} if args.no_normalize else {})}
            result = mesh.call("embed", body, model=args.model, lane=args.lane, timeout=args.timeout)
            _show(args.format, part, result, len(texts) if start == 0 else 0)
    return EXIT_OK


def _show(form: str, texts: list[str], result: dict[str, Any], total: int) -> None:
    """Write the vectors; ``total`` texts in all follow, told with the first of them."""
    data = memoryview(result["vectors"].data)
    dimension = result["vectors"].shape[1]
    if form == "npy":
        sys.stdout.buffer.write((npy_header(total, dimension) if total else b"") + bytes(data))
        return
    import json

    width = dimension * FLOAT_BYTES
    for i, (text, tokens) in enumerate(zip(texts, result["tokens"], strict=True)):
        vector = json_vector(data[i * width : (i + 1) * width])
        say(vector if form == "json" else f'{{"text": {json.dumps(text)}, "tokens": {tokens}, "vector": {vector}}}')
