"""A text that is longer than the model reads is cut, and whoever asked for its vector is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mlx_mesh.cli.embed import told_cut

if TYPE_CHECKING:
    from pathlib import Path

    from cli_shell import Shell

LONG = "long " * 600
READ = "cut to the 256 tokens that the model reads\n"


def test_a_text_that_was_cut_is_told_beside_its_vector(mesh: Shell):
    done = mesh.mesh("embed", LONG)
    assert (done.returncode, done.stderr.decode()) == (0, f"mlx-mesh: text 1 was {READ}")
    assert len(json.loads(done.stdout)) == 384
    assert mesh.mesh("embed", "short").stderr == b""


@pytest.mark.parametrize("form", ["json", "jsonl", "npy"])
def test_texts_that_were_cut_are_named_whatever_the_format(mesh: Shell, form: str):
    done = mesh.mesh("embed", LONG, "short", LONG + "two", "--format", form)
    assert done.stderr.decode() == f"mlx-mesh: texts 1 and 3 were {READ}"


def test_of_standard_input_the_lines_are_named(mesh: Shell):
    done = mesh.mesh("embed", "-", stdin=f"short\n\n{LONG}\n".encode())
    assert done.stderr.decode() == f"mlx-mesh: line 3 was {READ}"


def test_texts_are_named_by_their_places_among_all_of_them(mesh: Shell):
    done = mesh.mesh("embed", "-", stdin=("a\n" * 300 + f"{LONG}\n").encode())
    assert done.stderr.decode() == f"mlx-mesh: line 301 was {READ}"


def test_every_object_says_whether_its_text_was_cut(mesh: Shell):
    lines = mesh.good("embed", "short", LONG, "--format", "jsonl").splitlines()
    assert [(row["truncated"], row["tokens"]) for row in map(json.loads, lines)] == [(False, 3), (True, 256)]


def test_every_row_of_a_corpus_says_whether_its_text_was_cut(mesh: Shell, tmp_path: Path):
    (tmp_path / "in.txt").write_text(f"short\n{LONG}\nlast\n")
    done = mesh.mesh("embed", "--file", tmp_path / "in.txt", "--out", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["line"], row["truncated"]) for row in rows] == [(1, False), (2, True), (3, False)]
    assert "1 text was cut to the model's length\n" in done.stderr.decode()


def test_of_many_texts_that_were_cut_the_first_are_named():
    assert told_cut("line", {7: 256}) == "line 7 was cut to the 256 tokens that the model reads"
    assert (
        told_cut("text", dict.fromkeys((1, 4, 9), 8))
        == "texts 1, 4 and 9 were cut to the 8 tokens that the model reads"
    )
    assert told_cut("line", dict.fromkeys(range(1, 13), 8)).startswith(
        "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 others were"
    )
