"""What a command says: results to stdout, remarks to stderr, and failures as one line with what to do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_mesh_wire import MeshError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what it was asked; the message is one line that also says what to do.

    Attributes:
        status: the exit status.
    """

    def __init__(self, message: str, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.status = status


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Raise :class:`CommandError`."""
    raise CommandError(message, status)


WHAT_TO_DO = {
    "NO_WORKER": "see which workers there are with: mlx-mesh status",
    "OVERLOADED": "try again in a moment; see what waits with: mlx-mesh status",
    "DEADLINE_EXCEEDED": "see what waits with: mlx-mesh status, or allow more with --timeout",
}
"""By the code of an error."""


def told(error: MeshError, what_to_do: Mapping[str, str] | None = None) -> str:
    """Return what went wrong and what to do about it, in the words of the command; ``what_to_do`` goes first."""
    text = str(error).replace("; start one, or pass wait_for_ready=True to wait for it", "")
    return "; ".join(filter(None, (text, {**WHAT_TO_DO, **(what_to_do or {})}.get(error.code))))


def say(text: str = "") -> None:
    """Write a line of the result to stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Write a remark to stderr, at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def count(number: int, singular: str, plural: str = "") -> str:
    """Return ``1 text`` or ``1,234 texts``."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
