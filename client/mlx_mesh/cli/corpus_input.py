"""Reads a corpus line by line: the texts, where each line ends, and what is wrong with the bad ones."""

from __future__ import annotations

import hashlib
import json
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LINE_MAX_BYTES = 4 * 1024 * 1024
"""Far above what any embedding model reads of a text, far below the 64 MiB of a message."""

BATCH_MAX_TEXTS = 32
BATCH_MAX_BYTES = 256 * 1024
"""One request: enough to fill an engine's batch, small enough that a window of them stays small in memory."""

SAMPLE_BYTES = 64 * 1024


class Line(NamedTuple):
    """One line of the corpus.

    Attributes:
        number: from 1.
        end: offset in bytes of what follows the line.
        text: what is to be embedded; empty if the line is bad.
        problem: what is wrong with the line; empty if it is good.
    """

    number: int
    end: int
    text: str
    problem: str


class Batch(NamedTuple):
    """Consecutive lines that make one request; ``bad`` are those among them that cannot be sent."""

    good: list[Line]
    bad: list[Line]
    end: int
    last: int


def plain_text(line: str) -> str:
    """Return the text of a line of a .txt corpus. Raises ValueError for a blank one."""
    if not line.strip():
        raise ValueError("the line is blank")
    return line


def json_field(field: str) -> Callable[[str], str]:
    """Return a function that takes a text out of a line of a .jsonl corpus; it raises ValueError for a bad line."""

    def parse(line: str) -> str:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError("the line is blank" if not line.strip() else f"not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"expected a JSON object with the field {field!r}")
        text = row.get(field)
        if not isinstance(text, str):
            if field not in row:
                raise ValueError(f"the field {field!r} is missing; there is {', '.join(row)[:60] or 'none'}")
            raise ValueError(f"the field {field!r} is not a string but {json.dumps(text)[:40]}")
        if not text.strip():
            raise ValueError(f"the field {field!r} is blank")
        return text

    return parse


def read_lines(stream: IO[bytes], parse: Callable[[str], str], *, offset: int = 0, number: int = 0) -> Iterator[Line]:
    """Yield the lines of a stream that stands at ``offset``, after line ``number``. Memory is bounded by one line."""
    while raw := stream.readline(LINE_MAX_BYTES + 1):
        number += 1
        offset += len(raw)
        if len(raw) > LINE_MAX_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(LINE_MAX_BYTES)
                offset += len(raw)
            yield Line(number, offset, "", f"longer than {LINE_MAX_BYTES // 1024**2} MiB")
            continue
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            text = parse(raw.rstrip(b"\r\n").decode("utf-8"))
            text.encode("utf-8")
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            yield Line(number, offset, "", f"not valid UTF-8: {error.reason}")
        except ValueError as error:
            yield Line(number, offset, "", str(error))
        else:
            yield Line(number, offset, text, "")


def batches(lines: Iterable[Line]) -> Iterator[Batch]:
    """Yield lines in batches of bounded count and size, in order."""
    batch, size = Batch([], [], 0, 0), 0
    for line in lines:
        (batch.bad if line.problem else batch.good).append(line)
        batch = batch._replace(end=line.end, last=line.number)
        size += len(line.text)
        if size >= BATCH_MAX_BYTES or len(batch.good) + len(batch.bad) >= BATCH_MAX_TEXTS:
            yield batch
            batch, size = Batch([], [], 0, 0), 0
    if batch.last:
        yield batch


def fingerprint(stream: IO[bytes]) -> str:
    """Return what tells this file from a changed one: its size and a digest of its first and last 64 KiB."""
    size = stream.seek(0, 2)
    digest = hashlib.sha256(str(size).encode())
    for start in (0, max(0, size - SAMPLE_BYTES)):
        stream.seek(start)
        digest.update(stream.read(SAMPLE_BYTES))
    stream.seek(0)
    return digest.hexdigest()
