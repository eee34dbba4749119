"""What ``generate`` and ``chat`` share: flags for how text is chosen, live text, the line below it, errors."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mlx_mesh.cli.arguments import add_timeout
from mlx_mesh.cli.output import fail, told
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    from mlx_mesh import GenerateResult
    from mlx_mesh_wire import MeshError

TIMEOUT_S = 600.0

KEYWORDS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_tokens", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "json_schema", "model", "lane", "timeout",
)  # fmt: skip
"""Of ``Mesh.generate``, each set by the flag of its name."""

WHAT_TO_DO = {
    "NO_WORKER": "start one with: mlx-mesh up --generate MODEL; see which workers there are with: mlx-mesh status",
    "OUT_OF_MEMORY": "ask for less with --max-tokens, or try again when others have ended",
}
"""By the code of an error, where text needs other advice than other ops."""

_CONTROL = {code: "�" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""A model may be made to write what steers a terminal."""


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which model, how much, and how its tokens are chosen."""
    parser.add_argument("--model", help="model to use (default: the workers' own)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens at most (default: 256)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest token (default: 0)")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among tokens of so much probability together")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among so many tokens")
    parser.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="choose among tokens with this share of the likeliest one's probability",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text (may be repeated)")
    parser.add_argument(
        "--stop-token", action="append", type=int, dest="stop_tokens", metavar="ID",
        help="end at this token (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--repetition-penalty", type=float, metavar="X", help="divide what came before by this")
    parser.add_argument("--presence-penalty", type=float, metavar="X", help="take this off what came before")
    parser.add_argument("--frequency-penalty", type=float, metavar="X", help="the same, for each time it came")
    parser.add_argument(
        "--logit-bias", action="append", type=_bias, metavar="ID=BIAS",
        help="make a token likelier, or with a negative number less likely (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--json-schema", type=_schema, metavar="FILE|JSON", help="hold the text to a JSON schema: a file, or the schema"
    )
    parser.add_argument("--lane", choices=LANE_NAMES, default="interactive", help="(default: %(default)s)")
    add_timeout(parser, TIMEOUT_S, "how long it may take")


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords for ``Mesh.generate`` that were given on the command line."""
    keywords = {name: getattr(args, name) for name in KEYWORDS if getattr(args, name) is not None}
    if args.logit_bias:
        keywords["logit_bias"] = dict(args.logit_bias)
    return keywords


def explain(error: MeshError) -> NoReturn:
    """Raise :class:`CommandError` with what went wrong, and what to do about it where text is asked for."""
    fail(explained(error))


def explained(error: MeshError) -> str:
    """Return what went wrong and what to do about it."""
    if "no chat template" in error.message:
        return f"{error.code}: {error.message}: mlx-mesh generate TEXT"
    return told(error, WHAT_TO_DO)


def write(text: str) -> None:
    """Show text as it comes."""
    sys.stdout.write(text.translate(_CONTROL) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def summary(result: GenerateResult) -> str:
    """Return how a text ended, in one line."""
    usage, timings = result.usage, result.timings
    generated = f"{usage['completion']} tokens generated"
    parts = [generated]
    if timings:
        seconds = max(timings["decode_ms"], 1e-3) / 1e3
        known = f", {usage['cached']} of them known" if usage["cached"] else ""
        parts = [f"{usage['prompt']} tokens read{known}", f"{generated} at {usage['completion'] / seconds:.0f}/s"]
        parts.append(f"the first after {(timings['queue_ms'] + timings['prefill_ms']) / 1e3:.2f} s")
    if usage["moved"]:
        parts.append(f"went on in another worker {usage['moved']} x")
    return f"{'; '.join(parts)}; ended by {result.finish_reason}"


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: ID=BIAS, such as 42=-5") from None


def _schema(text: str) -> str:
    """Return the JSON text of a schema that was given itself, or as the name of a file."""
    if text.lstrip().startswith("{"):
        found = text
    else:
        try:
            found = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise argparse.ArgumentTypeError(f"{text}: cannot be read: {error}") from None
    try:
        json.loads(found)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:80]}: not JSON: {error}") from None
    return found
