"""Real text for the demo: paragraphs of this project's documentation and of the standard library's docstrings."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = (
    "argparse", "ast", "asyncio/locks", "asyncio/runners", "asyncio/streams", "asyncio/tasks", "bisect", "calendar",
    "collections/__init__", "concurrent/futures/_base", "configparser", "contextlib", "copy", "csv", "datetime",
    "difflib", "email/message", "fileinput", "fnmatch", "functools", "glob", "gzip", "heapq", "hmac", "http/client",
    "imaplib", "inspect", "ipaddress", "json/__init__", "linecache", "locale", "logging/__init__", "mailbox",
    "multiprocessing/pool", "pathlib", "pickle", "pprint", "queue", "random", "sched", "selectors", "shelve", "shlex",
    "shutil", "smtplib", "socket", "socketserver", "ssl", "statistics", "string", "subprocess", "tarfile", "tempfile",
    "textwrap", "threading", "timeit", "tracemalloc", "urllib/parse", "urllib/request", "uuid", "weakref", "zipfile",
)  # fmt: skip
PARAGRAPH_MIN_CHARS = 60
"""Shorter ones are headings and signatures."""

PARAGRAPHS_MAX = 900
"""What two workers on two cores embed in some seconds, or in half a minute where the cores are slow."""


class Paragraph(NamedTuple):
    """A paragraph and where it stands."""

    place: str
    text: str


def paragraphs(limit: int = PARAGRAPHS_MAX) -> list[Paragraph]:
    """Return the paragraphs, each text once: all of the documentation, then docstrings from every module in turn."""
    found: dict[str, Paragraph] = {}
    for paragraph in _documentation():
        found.setdefault(paragraph.text, paragraph)
    for paragraph in docstrings():
        if len(found) >= limit:
            break
        found.setdefault(paragraph.text, paragraph)
    return list(found.values())


def docstrings() -> Iterator[Paragraph]:
    """Yield the paragraphs of docstrings, from every module in turn; some of them twice."""
    modules = [list(_docstrings(name)) for name in MODULES]
    for turn in range(max(map(len, modules), default=0)):
        yield from (of_module[turn] for of_module in modules if turn < len(of_module))


def _documentation() -> Iterator[Paragraph]:
    """Yield the paragraphs of the Markdown files of the checkout; none when this code was installed from a wheel."""
    top = Path(__file__).resolve().parents[3]
    if not (top / "pyproject.toml").is_file():
        return
    for path in [*sorted(top.glob("*.md")), top / "protocol" / "SPEC.md", *sorted((top / "docs").rglob("*.md"))]:
        yield from _split(str(path.relative_to(top)), path.read_text(encoding="utf-8"))


def _docstrings(name: str) -> Iterator[Paragraph]:
    path = Path(sysconfig.get_path("stdlib")) / f"{name}.py"
    if not path.is_file():
        return
    module = name.removesuffix("/__init__").replace("/", ".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            place = module if isinstance(node, ast.Module) else f"{module}.{node.name}"
            yield from _split(place, inspect.cleandoc(ast.get_docstring(node) or ""))


def _split(place: str, text: str) -> Iterator[Paragraph]:
    for block in text.split("\n\n"):
        joined = " ".join(block.split())
        if len(joined) >= PARAGRAPH_MIN_CHARS and not joined.startswith(("```", "|", "#", ">>>")):
            yield Paragraph(place, joined)
