"""``mlx-mesh generate`` and ``chat``: text as it comes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser, add_timeout
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.output import EXIT_OK, fail, note, say
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    import argparse

    from mlx_mesh import GenerateResult, Generation, Mesh

TIMEOUT_S = 600.0

GENERATE_MORE = """\
examples:
  mlx-mesh generate "Once upon a time"
  mlx-mesh generate --temperature 0.8 --seed 7 --max-tokens 100 "Once"     the same text each time
  mlx-mesh generate --stop "." "Once"                                      up to the first full stop
  mlx-mesh generate - < prompt.txt                                         the prompt from standard input
  mlx-mesh generate --json "Once"                                          text, usage and timings as JSON

Ctrl-C ends it; the worker stops computing."""

CHAT_MORE = """\
Type a message and press Enter. Ctrl-C ends an answer, Ctrl-D the conversation; /new begins another one.

example:
  mlx-mesh chat --system "You answer in one sentence." --temperature 0.7"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``generate`` and ``chat``."""
    parser = add_parser(
        commands, "generate", summary="continue a text", about="Continue a text, shown as it comes.", more=GENERATE_MORE
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads it from standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end instead of live text")
    _add_sampling(parser)
    parser.set_defaults(run=run_generate)
    parser = add_parser(
        commands, "chat", summary="talk to a model", about="A conversation with a model.", more=CHAT_MORE
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="what the model is told first")
    _add_sampling(parser)
    parser.set_defaults(run=run_chat)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="model to use (default: the workers' own)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens at most (default: 256)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest token (default: 0)")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among tokens of so much probability together")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among so many tokens")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text (may be repeated)")
    parser.add_argument("--lane", choices=LANE_NAMES, default="interactive", help="(default: %(default)s)")
    add_timeout(parser, TIMEOUT_S, "how long it may take")


def run_generate(args: argparse.Namespace) -> int:
    """Continue one text."""
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not prompt:
        fail("the prompt is empty; give a text to continue", 2)
    require_broker()
    from mlx_mesh import Mesh

    with Mesh() as mesh, mesh.generate(prompt, **_asked(args)) as generation:
        if not args.json:
            _show(generation)
            return EXIT_OK
        text = generation.text()
        result = generation.result
        assert result is not None  # noqa: S101  text() waits for the end
        say(json.dumps({"text": text, **result._asdict()}, ensure_ascii=False))
    return EXIT_OK


def run_chat(args: argparse.Namespace) -> int:
    """Talk until the input ends."""
    require_broker()
    from mlx_mesh import Mesh

    if sys.stdin.isatty():
        import readline  # noqa: F401  gives input() editing and history

        note("type a message; Ctrl-C ends an answer, Ctrl-D the conversation, /new begins another one")
    beginning = [{"role": "system", "content": args.system}] if args.system else []
    history: list[dict[str, Any]] = list(beginning)
    with Mesh() as mesh:
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "")
            except EOFError:
                return EXIT_OK
            except KeyboardInterrupt:
                note("")
                continue
            if line.strip() == "/new":
                history = list(beginning)
            elif line.strip():
                history.append({"role": "user", "content": line})
                history.append({"role": "assistant", "content": _answer(mesh, history, args)})


def _answer(mesh: Mesh, history: list[dict[str, Any]], args: argparse.Namespace) -> str:
    said: list[str] = []
    with mesh.chat(history, **_asked(args)) as generation:
        try:
            for chunk in generation:
                said.append(chunk.text)
                _write(chunk.text)
        except KeyboardInterrupt:
            note(" (cancelled)")
    _write("\n")
    return "".join(said)


def _show(generation: Generation) -> None:
    for chunk in generation:
        _write(chunk.text)
    _write("\n")
    result = generation.result
    if result is not None and sys.stderr.isatty():
        note(_summary(result))


def _summary(result: GenerateResult) -> str:
    usage, timings = result.usage, result.timings
    seconds = max(timings["decode_ms"], 1e-3) / 1e3
    cached = f", {usage['cached']} of them known" if usage["cached"] else ""
    return (
        f"{usage['prompt']} tokens read{cached}, {usage['completion']} generated at "
        f"{usage['completion'] / seconds:.0f}/s; ended by {result.finish_reason}"
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "model", "lane", "timeout")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
