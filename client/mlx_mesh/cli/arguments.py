"""Kinds of arguments that several commands share, checked while the command line is read."""

from __future__ import annotations

import argparse

SECONDS_MAX = 604_800.0
"""A week, the longest that a request may take."""


def seconds(text: str) -> float:
    """Return a time span above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; allowed: seconds above 0 and up to {SECONDS_MAX:.0f}"
        )
    return value


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, *, summary: str, about: str, more: str
) -> argparse.ArgumentParser:
    """Add a command whose help keeps its line breaks: ``about`` it before the options, ``more`` (examples) after."""
    return commands.add_parser(
        name, help=summary, description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_timeout(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    """Add ``--timeout``, in seconds."""
    parser.add_argument(
        "--timeout", type=seconds, default=default, metavar="SECONDS", help=f"{what} (default: %(default)g s)"
    )
