"""``mlx-mesh generate``: continue a text, shown as it comes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.output import EXIT_OK, EXIT_USAGE, fail, note, say
from mlx_mesh.cli.sampling import add_sampling, asked, explain, summary, write
from mlx_mesh_wire import MeshError

if TYPE_CHECKING:
    import argparse

    from mlx_mesh import Generation

MORE = """\
examples:
  mlx-mesh generate "Once upon a time"
  mlx-mesh generate --temperature 0.8 --seed 7 --max-tokens 100 "Once"     the same text each time
  mlx-mesh generate --stop "." "Once"                                      up to the first full stop
  mlx-mesh generate - < prompt.txt                                         the prompt from standard input
  mlx-mesh generate --json-schema person.json "A person as JSON:"          nothing but JSON of that form
  mlx-mesh generate --json "Once"                                          text, tokens, usage and timings as JSON
  mlx-mesh generate --json --top-logprobs 5 "Once"                         and how likely each token was

Ctrl-C ends it; the worker stops computing."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``generate``."""
    parser = add_parser(
        commands, "generate", summary="continue a text", about="Continue a text, shown as it comes.", more=MORE
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads it from standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end instead of live text")
    parser.add_argument("--logprobs", action="store_true", help="the log probability of each token too; with --json")
    parser.add_argument(
        "--top-logprobs", type=int, metavar="N", help="and those of the N likeliest tokens in its place; with --json"
    )
    add_sampling(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Continue one text."""
    keywords = asked(args)
    if args.logprobs or args.top_logprobs is not None:
        if not args.json:
            fail("log probabilities are shown with --json only; add it", EXIT_USAGE)
        keywords |= {"logprobs": True, "top_logprobs": args.top_logprobs}
    prompt = _prompt(args.prompt)
    require_broker()
    from mlx_mesh import Mesh

    with Mesh() as mesh:
        try:
            with mesh.generate(prompt, **keywords) as generation:
                if args.json:
                    say(json.dumps(_whole(generation), ensure_ascii=False))
                else:
                    _show(generation)
        except MeshError as error:
            explain(error)
    return EXIT_OK


def _prompt(given: str) -> str:
    try:
        prompt = sys.stdin.buffer.read().decode() if given == "-" else given
        prompt.encode()  # Python turns what is not UTF-8 on a command line into surrogates
    except UnicodeError:
        fail("the prompt is not valid UTF-8")
    if not prompt:
        fail("the prompt is empty; give a text to continue", EXIT_USAGE)
    return prompt


def _whole(generation: Generation) -> dict[str, Any]:
    """Return all that a text and its end say."""
    chunks = list(generation)
    result = generation.result
    assert result is not None  # noqa: S101  it has ended
    found: dict[str, Any] = {
        "text": "".join(chunk.text for chunk in chunks),
        "tokens": [token for chunk in chunks for token in chunk.tokens],
    }
    if any(chunk.logprobs is not None for chunk in chunks):
        found["logprobs"] = [each for chunk in chunks for each in chunk.logprobs or ()]
    return {**found, **result._asdict()}


def _show(generation: Generation) -> None:
    begun = False
    try:
        for chunk in generation:
            begun = True
            write(chunk.text)
    finally:
        if begun or generation.result is not None:
            write("\n")  # what comes next, an error too, begins a line
    result = generation.result
    if result is not None and sys.stderr.isatty():
        note(summary(result))
