"""Tells from the command line of a process whether it is a worker, and of which engine."""

from __future__ import annotations

import functools
import shlex
from pathlib import PurePath

WORKER = "mlx-mesh-worker"
WORKER_MODULE = "mlx_mesh_worker.main"
GUARD = "mlx-mesh-guard"
ENGINE_FLAG = "--engine"


@functools.lru_cache(maxsize=1024)
def worker_engine(command: str) -> str | None:
    """Return the engine that a command serves, empty if it does not say; None if it runs no worker.

    The worker may be named by any path, as a module of Python, behind ``env`` or ``nice``, or in the words of a shell.
    """
    words = _words(command)
    if not runs(command, WORKER) and WORKER_MODULE not in words:
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == ENGINE_FLAG:
            return following
        if word.startswith(ENGINE_FLAG + "="):
            return word.partition("=")[2]
    return ""


@functools.lru_cache(maxsize=1024)
def runs(command: str, program: str) -> bool:
    """Return whether a command line runs this program, by whatever path."""
    return any(PurePath(word).name == program for word in _words(command))


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:  # an open quote: supervisord will not start it either
        return command.split()
    return [part for word in words for part in (word.split() or [word])]
