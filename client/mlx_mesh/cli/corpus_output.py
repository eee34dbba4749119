"""Writes the vectors of a corpus as they come, in order, as .npy or .jsonl; memory stays bounded."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_mesh.cli.corpus_input import Line

NPY_HEADER_BYTES = 128
"""Room for any shape; a multiple of 64, as the format asks for."""

FLOAT_BYTES = 4


class Embedded(NamedTuple):
    """A line and what came of it.

    Attributes:
        vector: little-endian float32 bytes.
        tokens: how many were used.
        truncated: whether the text was cut to the model's length.
    """

    line: Line
    vector: memoryview
    tokens: int
    truncated: bool


class Writer(Protocol):
    """Appends rows to a file."""

    def write(self, rows: Sequence[Embedded]) -> None:
        """Append rows."""

    def size(self) -> int:
        """Return the size of the file in bytes."""

    def flush(self) -> None:
        """Bring all rows to the disk."""

    def close(self) -> None:
        """Finish the file."""


class AppendFile:
    """A file cut to the part that is known to be good, open at its end."""

    def __init__(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._file = os.fdopen(descriptor, "r+b")
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, text: str) -> None:
        """Append text."""
        self._file.write(text.encode())

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return self._file.tell()

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        self.flush()
        self._file.close()


class NpyWriter(AppendFile):
    """One float32 array of shape (rows, dimension), in NumPy's format 1.0."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, size)
        self._dimension = 0
        if size < NPY_HEADER_BYTES:
            self._file.write(npy_header(0, 0))

    def write(self, rows: Sequence[Embedded]) -> None:
        """Append rows."""
        for row in rows:
            self._dimension = len(row.vector) // FLOAT_BYTES
            self._file.write(row.vector)

    def flush(self) -> None:
        """Bring all rows to the disk, with a header that counts them."""
        end = self._file.tell()
        if self._dimension:
            self._file.seek(0)
            self._file.write(npy_header((end - NPY_HEADER_BYTES) // (FLOAT_BYTES * self._dimension), self._dimension))
            self._file.seek(end)
        super().flush()


class JsonlWriter(AppendFile):
    """One JSON object for each text: ``line`` (its number in the input), ``tokens``, ``truncated``, ``vector``."""

    def write(self, rows: Sequence[Embedded]) -> None:
        """Append rows."""
        for row in rows:
            vector = json_vector(row.vector)
            cut = "true" if row.truncated else "false"
            head = f'{{"line": {row.line.number}, "tokens": {row.tokens}, "truncated": {cut}, "vector": '
            self.append(f"{head}{vector}}}\n")


def npy_header(rows: int, dimension: int) -> bytes:
    """Return the 128 bytes in front of a float32 array of that shape."""
    shape = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}"
    length = NPY_HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + shape.ljust(length - 1).encode() + b"\n"


def json_vector(vector: memoryview) -> str:
    """Return a JSON array with the nine digits that tell any two float32 apart."""
    numbers = struct.unpack(f"<{len(vector) // FLOAT_BYTES}f", vector)
    return "[" + ", ".join(f"{number:.9g}" for number in numbers) + "]"
