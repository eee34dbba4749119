"""``mlx-mesh chat``: a conversation at the terminal, or by a script through standard input."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.arguments import add_parser
from mlx_mesh.cli.connect import require_broker
from mlx_mesh.cli.output import EXIT_OK, fail, note
from mlx_mesh.cli.sampling import add_sampling, asked, explain, explained, summary, write
from mlx_mesh_wire import MeshError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from mlx_mesh import GenerateResult

HELP = """\
/new          begin another conversation
/system TEXT  tell the model this first, from the next answer on; without TEXT nothing
/retry        answer the last message again
/help         show this
Ctrl-C ends an answer; what was said of it stays in the conversation. Ctrl-D ends the program."""

MORE = f"""\
Type a message and press Enter.

{HELP}

Where standard input is no terminal, each of its lines is a message, and the answers are all that is written.

examples:
  mlx-mesh chat --system "You answer in one sentence." --temperature 0.7
  printf 'What is ZeroMQ?\\nAnd MLX?\\n' | mlx-mesh chat"""

_COMMAND = re.compile(r"\s*(/[a-z]+)(?:\s+(.*?))?\s*$")


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``chat``."""
    parser = add_parser(commands, "chat", summary="talk to a model", about="A conversation with a model.", more=MORE)
    parser.add_argument("--system", default="", metavar="TEXT", help="what the model is told first")
    add_sampling(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends."""
    require_broker()
    conversation = Conversation(args.system, asked(args))
    if not sys.stdin.isatty():
        return _follow_script(conversation)
    import readline  # noqa: F401  gives input() editing and history

    note("type a message; /help shows what else there is")
    signal.signal(signal.SIGINT, conversation.interrupt)
    while True:
        try:
            line = conversation.ask("> ")
        except EOFError:
            note("")
            return EXIT_OK
        except KeyboardInterrupt:
            note("")
            continue
        except UnicodeDecodeError:
            note("that was not valid UTF-8")
            continue
        try:
            conversation.obey(line)
        except MeshError as error:
            if not conversation.begun and not error.retryable:
                explain(error)  # what the flags ask for cannot be had
            note(f"{explained(error)}; /retry asks again")


def _follow_script(conversation: Conversation) -> int:
    try:
        for line in _lines():
            conversation.obey(line)
    except MeshError as error:
        explain(error)
    return EXIT_OK


def _lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        try:
            yield line.decode()
        except UnicodeDecodeError:
            fail("standard input is not valid UTF-8")


class Conversation:
    """What was said so far, and the answer that comes.

    Args:
        system: what the model is told first; empty for nothing.
        keywords: of ``AsyncMesh.chat``.

    Attributes:
        begun: there was an answer.
    """

    def __init__(self, system: str, keywords: dict[str, Any]) -> None:
        self._system = system
        self._keywords = keywords
        self._turns: list[tuple[str, str]] = []
        self._last = ""
        self._last_kept = False
        self._asking = False
        self._stop: Callable[[], object] | None = None
        self.begun = False

    def ask(self, prompt: str) -> str:
        """Return a line that is typed. Raises EOFError, KeyboardInterrupt and UnicodeDecodeError."""
        self._asking = True
        try:
            return input(prompt)
        finally:
            self._asking = False

    def interrupt(self, *_: object) -> None:
        """Ctrl-C: drop the line that is typed, or end the answer; never in the middle of anything else."""
        if self._asking:
            raise KeyboardInterrupt
        if self._stop is not None:
            self._stop()

    def obey(self, line: str) -> None:
        """Do what a line asks for: a command, or an answer.

        Raises:
            MeshError: there is no answer, or no end of it.
        """
        command = _COMMAND.match(line)
        if command is None:
            if line.strip():
                self._answer(line.rstrip("\r\n"))
        elif command[1] == "/new":
            self._turns, self._last, self._last_kept = [], "", False
        elif command[1] == "/system":
            self._system = command[2] or ""
        elif command[1] == "/retry" and self._last:
            if self._last_kept:
                self._turns.pop()
            self._answer(self._last)
        elif command[1] == "/retry":
            note("there is no message to answer again")
        elif command[1] == "/help":
            note(HELP)
        else:
            note(f"there is no {command[1]}\n{HELP}")

    def _answer(self, question: str) -> None:
        """Ask, show the answer, and keep both; what came of an answer that was ended early is kept too."""
        self._last, self._last_kept = question, False
        messages = self._messages(question)
        said: list[str] = []
        result: GenerateResult | None = None
        cancelled = False
        try:
            result = asyncio.run(self._stream(messages, said))
        except asyncio.CancelledError:
            cancelled = True
        finally:
            if said or result is not None:
                write("\n")
                self._turns.append((question, "".join(said)))
                self._last_kept = self.begun = True
        if cancelled:
            note("(cancelled)" if said else "(cancelled before it began; the message is taken back)")
        if result is not None and sys.stdin.isatty() and sys.stderr.isatty():
            note(summary(result))

    def _messages(self, question: str) -> list[dict[str, str]]:
        messages = [{"role": "system", "content": self._system}] if self._system else []
        for asked_before, answer in self._turns:
            messages += [{"role": "user", "content": asked_before}, {"role": "assistant", "content": answer}]
        return [*messages, {"role": "user", "content": question}]

    async def _stream(self, messages: list[dict[str, str]], said: list[str]) -> GenerateResult | None:
        """Show an answer as it comes, and return how it ended. Ctrl-C cancels this task.

        A connection lasts for one answer: nobody would tend it while the next message is typed.
        """
        from mlx_mesh import AsyncMesh

        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101  this coroutine is one
        self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            async with AsyncMesh() as mesh, mesh.chat(messages, **self._keywords) as generation:
                async for chunk in generation:
                    said.append(chunk.text)
                    write(chunk.text)
        finally:
            self._stop = None
        return generation.result
