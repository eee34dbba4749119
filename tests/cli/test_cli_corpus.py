"""``mlx-mesh embed --file`` with the real model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from cli_shell import Shell

TEXT = "the broker gives a job to the worker that has the fewest and takes it back when the worker dies"
WORDS = TEXT.split(" ")


def sentence(i: int) -> str:
    return " ".join(WORDS[(i * 7 + k * k) % len(WORDS)] for k in range(4 + i % 13)) + f" {i}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A corpus of 200 lines of JSON."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": sentence(i)}) + "\n" for i in range(200)))
    return path


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_corpus_becomes_one_row_a_line_in_order(mesh: Shell, source: Path, tmp_path: Path):
    done = mesh.mesh("embed", "--file", source, "--out", tmp_path / "out.npy")
    assert done.returncode == 0, done.stderr.decode()
    vectors = np.load(tmp_path / "out.npy")
    assert (vectors.shape, vectors.dtype) == ((200, 384), np.float32)
    for i in (0, 31, 32, 199):
        assert np.allclose(vectors[i], json.loads(mesh.good("embed", sentence(i))), atol=1e-5)
    summary = done.stderr.decode()
    assert "200 texts to" in summary
    assert all(word in summary for word in ("texts/s", "tokens/s", "p50", "p95"))
    assert left_over(tmp_path) == {"in.jsonl", "out.npy"}


def test_a_corpus_can_become_json_with_the_numbers_of_its_lines(mesh: Shell, source: Path, tmp_path: Path):
    mesh.good("embed", "--file", source, "--out", tmp_path / "out.jsonl")
    mesh.good("embed", "--file", source, "--out", tmp_path / "out.npy")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 201))
    assert np.allclose([row["vector"] for row in rows], np.load(tmp_path / "out.npy"), atol=1e-5)
    assert all(row["tokens"] > 3 for row in rows)


def test_bad_lines_are_told_with_their_numbers_before_anything_is_embedded(mesh: Shell, source: Path, tmp_path: Path):
    lines = source.read_text().splitlines()
    lines[2], lines[150] = "{oops", '{"text": ""}'
    source.write_text("\n".join(lines) + "\n")
    errors = mesh.bad("embed", "--file", source, "--out", tmp_path / "out.npy")
    assert f"{source}:3: not JSON" in errors
    assert f"{source}:151: the field 'text' is blank" in errors
    assert "--skip-bad" in errors
    assert left_over(tmp_path) == {"in.jsonl"}


def test_bad_lines_can_be_left_out_and_are_listed(mesh: Shell, source: Path, tmp_path: Path):
    lines = source.read_text().splitlines()
    lines[2] = "{oops"
    source.write_text("\n".join(lines) + "\n")
    done = mesh.mesh("embed", "--file", source, "--out", tmp_path / "out.npy", "--skip-bad")
    assert done.returncode == 0
    assert "1 line left out; see" in done.stderr.decode()
    assert np.load(tmp_path / "out.npy").shape == (199, 384)
    (skipped,) = (tmp_path / "out.npy.skipped.jsonl").read_text().splitlines()
    assert json.loads(skipped)["line"] == 3


def test_a_corpus_is_read_from_standard_input(mesh: Shell, tmp_path: Path):
    mesh.good("embed", "--file", "-", "--out", tmp_path / "out.npy", stdin=b"one\ntwo\n")
    assert np.load(tmp_path / "out.npy").shape == (2, 384)
    errors = mesh.bad("embed", "--file", "-", "--out", tmp_path / "bad.npy", "--field", "text", stdin=b'{"text": 3}\n')
    assert "line 1: the field 'text' is not a string but 3" in errors


def test_another_field_can_hold_the_text(mesh: Shell, tmp_path: Path):
    (tmp_path / "in.jsonl").write_text('{"body": "hello", "text": 5}\n')
    mesh.good("embed", "--file", tmp_path / "in.jsonl", "--field", "body", "--out", tmp_path / "out.npy")
    assert np.allclose(np.load(tmp_path / "out.npy")[0], json.loads(mesh.good("embed", "hello")), atol=1e-5)


def test_texts_that_were_cut_are_counted(mesh: Shell, tmp_path: Path):
    (tmp_path / "in.txt").write_text("short\n" + "long " * 2000 + "\n")
    done = mesh.mesh("embed", "--file", tmp_path / "in.txt", "--out", tmp_path / "out.npy")
    assert "1 text was cut to the model's length" in done.stderr.decode()


def test_a_corpus_without_a_good_line_is_told_in_one_line(mesh: Shell, tmp_path: Path):
    (tmp_path / "in.txt").write_text("\n\n")
    done = mesh.mesh("embed", "--file", tmp_path / "in.txt", "--out", tmp_path / "out.npy", "--skip-bad")
    assert done.stderr.decode().splitlines() == [
        f"no text had a vector; {tmp_path}/out.npy has no rows",
        f"2 lines left out; see {tmp_path}/out.npy.skipped.jsonl",
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.txt", None, "there is no such file"),
        ("folder", "", "is not a file"),
        ("empty.txt", b"", "has no lines"),
        ("bad.txt", b"good\n\xff\n", ":2: not valid UTF-8"),
        ("blank.txt", b"good\n\nmore\n", ":2: the line is blank"),
    ],
)
def test_an_input_that_cannot_be_used_is_told(
    mesh: Shell, tmp_path: Path, name: str, content: bytes | str | None, told: str
):
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert told in mesh.bad("embed", "--file", path, "--out", tmp_path / "out.npy")


def test_an_output_that_is_there_or_cannot_be_is_told(mesh: Shell, source: Path, tmp_path: Path):
    (tmp_path / "out.npy").write_text("precious")
    assert "exists already; replace it with --restart" in mesh.bad(
        "embed", "--file", source, "--out", tmp_path / "out.npy"
    )
    assert "is not a folder" in mesh.bad("embed", "--file", source, "--out", tmp_path / "no" / "out.npy")
    assert (tmp_path / "out.npy").read_text() == "precious"
