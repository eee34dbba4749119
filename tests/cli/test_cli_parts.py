"""The parts of the commands that need no mesh."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest

from mlx_mesh.cli.corpus_input import LINE_MAX_BYTES, batches, fingerprint, json_field, plain_text, read_lines
from mlx_mesh.cli.corpus_output import json_vector, npy_header
from mlx_mesh.cli.corpus_progress import Progress, load_progress
from mlx_mesh.cli.demo_texts import paragraphs
from mlx_mesh.cli.logs import Follower, tail
from mlx_mesh.cli.main import main
from mlx_mesh.cli.progress_bar import ProgressBar
from mlx_mesh.cli.table import duration, milliseconds, percentile, size, table


def lines(data: bytes, parse=plain_text):
    return list(read_lines(io.BytesIO(data), parse))


def test_lines_are_numbered_and_say_where_they_end():
    assert [(line.text, line.number, line.end, line.problem) for line in lines(b"a\nb c\r\nd")] == [
        ("a", 1, 2, ""),
        ("b c", 2, 7, ""),
        ("d", 3, 8, ""),
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"   \n", "blank"),
        (b"\xff\n", "not valid UTF-8"),
        (b"x" * (LINE_MAX_BYTES + 1) + b"\n", "longer than 4 MiB"),
    ],
)
def test_a_bad_line_of_text_is_told_and_the_next_one_is_read(data: bytes, problem: str):
    bad, good = lines(data + b"next\n")
    assert problem in bad.problem
    assert (good.text, good.number, good.end) == ("next", 2, len(data) + 5)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "blank"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["text"]', "expected a JSON object with the field 'text'"),
        ('{"other": "x", "id": 1}', "the field 'text' is missing; there is other, id"),
        ("{}", "the field 'text' is missing; there is none"),
        ('{"text": 5}', "the field 'text' is not a string but 5"),
        ('{"text": " "}', "the field 'text' is blank"),
        ('{"text": "\\ud800"}', "not valid UTF-8"),
    ],
)
def test_a_bad_line_of_json_is_told_with_its_fault(line: str, problem: str):
    assert problem in lines(line.encode() + b"\n", json_field("text"))[0].problem


def test_a_byte_order_mark_is_not_part_of_the_first_text():
    assert lines(b"\xef\xbb\xbfa\n")[0].text == "a"


def test_batches_are_bounded_by_count_and_by_size():
    assert [len(batch.good) for batch in batches(lines(b"a\n" * 70))] == [32, 32, 6]
    assert [len(batch.good) for batch in batches(lines((b"x" * 300_000 + b"\n") * 2))] == [1, 1]


def test_reading_goes_on_at_an_offset():
    data = b"one\ntwo\nthree\n"
    stream = io.BytesIO(data)
    stream.seek(4)
    assert [(line.text, line.number, line.end) for line in read_lines(stream, plain_text, offset=4, number=1)] == [
        ("two", 2, 8),
        ("three", 3, 14),
    ]


def test_a_changed_file_has_another_fingerprint():
    assert fingerprint(io.BytesIO(b"a\nb\n")) == fingerprint(io.BytesIO(b"a\nb\n"))
    assert fingerprint(io.BytesIO(b"a\nb\n")) != fingerprint(io.BytesIO(b"a\nc\n"))
    assert fingerprint(io.BytesIO(b"a" * 10**6)) != fingerprint(io.BytesIO(b"a" * (10**6 - 1)))


def test_numpy_reads_the_header_that_is_written():
    data = np.arange(6, dtype="<f4").reshape(2, 3)
    assert np.array_equal(data, np.load(io.BytesIO(npy_header(2, 3) + data.tobytes())))
    assert len(npy_header(10**12, 10**5)) == 128


def test_a_vector_in_json_keeps_every_float32():
    values = np.random.default_rng(1).standard_normal(1000).astype("<f4")
    assert np.array_equal(values, np.array(json.loads(json_vector(memoryview(values.tobytes()))), dtype="<f4"))
    assert json_vector(memoryview(struct.pack("<2f", 1, -0.5))) == "[1, -0.5]"


def test_progress_is_read_back_and_rubbish_is_not(tmp_path):
    path = tmp_path / "p"
    progress = Progress("digest", {"field": "text"}, offset=7, seconds=1.5, model="m")
    progress.save(path)
    assert progress == load_progress(path)
    for rubbish in ("", "[]", "{}", '{"source": 1}', path.read_text().replace("7", '"7"')):
        path.write_text(rubbish)
        assert load_progress(path) is None


def test_columns_are_aligned():
    assert table(("NAME", "N"), [("a", 1), ("bcd", 23)], right="N") == "NAME   N\na      1\nbcd   23"
    assert table(("NAME",), [("a\x1b[2J\nb",)]) == "NAME\na [2J b"  # which no terminal obeys


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (59, "59 s"), (200, "3 min 20 s"), (18720, "5 h 12 min"), (273600, "3 d 4 h")],
)
def test_durations_are_short(seconds: float, text: str):
    assert text == duration(seconds)


def test_sizes_and_latencies_have_units():
    assert [size(n) for n in (512, 1536, 312 * 2**20, 2**41)] == ["512 B", "1.5 KiB", "312 MiB", "2.0 TiB"]
    assert [milliseconds(s) for s in (0.00042, 0.0182, 1.82)] == ["0.42 ms", "18.2 ms", "1,820 ms"]
    assert (percentile([], 0.5), percentile([1, 2, 3], 0.5), percentile([1, 2, 3], 1.0)) == (0.0, 2, 3)


def test_the_progress_bar_fits_the_terminal_and_tells_what_is_left():
    bar = ProgressBar("embedding", "lines", total=1000, done=200)
    line = bar.line(600, elapsed=10.0, columns=80)
    assert "600 of 1,000 lines, 40/s, 10 s left" in line
    assert "##" in line
    assert all(len(bar.line(600, 10.0, columns)) < columns for columns in range(20, 200))
    assert "7 lines" in ProgressBar("embedding", "lines", total=0).line(7, 1.0, 80)


def test_new_lines_of_a_log_are_followed_also_after_it_was_rotated(tmp_path):
    path = tmp_path / "log"
    path.write_text("old\n")
    follower = Follower(path)
    with path.open("a") as file:
        file.write("one\nhal")
    assert list(follower.new_lines()) == ["one"]
    with path.open("a") as file:
        file.write("f\n")
    assert list(follower.new_lines()) == ["half"]
    path.rename(tmp_path / "log.1")
    assert list(follower.new_lines()) == []
    path.write_text("fresh\n")
    assert list(follower.new_lines()) == ["fresh"]


def test_the_tail_of_a_log_that_is_not_there_is_empty(tmp_path):
    (tmp_path / "log").write_text("".join(f"{i}\n" for i in range(5000)))
    assert tail(tmp_path / "log", 2) == ["4998", "4999"]
    assert tail(tmp_path / "none") == []


def test_the_demo_has_hundreds_of_paragraphs_of_both_kinds():
    found = paragraphs()
    assert 500 < len(found) == len({paragraph.text for paragraph in found})
    assert any(paragraph.place == "protocol/SPEC.md" for paragraph in found)
    assert any(paragraph.place.startswith("tempfile") for paragraph in found)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["embed"],
        ["embed", "text", "--file", "x"],
        ["embed", "text", "--out", "x.npy"],
        ["embed", "--file", "x.txt"],
        ["embed", "--file", "x.txt", "--out", "x.csv"],
        ["embed", "text", "--lane", "fast"],
        ["drain"],
        ["bench", "-c", "0"],
        ["bench", "-t", "nan"],
        ["bench", "--size", "0"],
        ["embed", "text", "--timeout", "0"],
        ["embed", "text", "-"],
        ["embed", "--file", "x.txt", "--out", "x.npy", "--lane", "interactive"],
        ["embed", "--file", "x.txt", "--out", "x.npy", "--format", "json"],
        ["embed", "--file", "x.txt", "--out", "x.npy", "--timeout", "5"],
        ["generate"],
        ["generate", "x", "--max-tokens", "many"],
        ["generate", "x", "--json-schema", "no-such-file.json"],
        ["generate", "x", "--json-schema", '{"type":'],
        ["generate", "x", "--logit-bias", "42"],
        ["chat", "--logprobs"],
        ["up", "--timeout", "-5"],
        ["down", "--timeout", "soon"],
        ["scale", "workers"],
        ["scale", "workers", "0"],
        ["scale", "workers", "257"],
        ["scale", "workers", "many"],
        ["recycle"],
        ["recycle", "embed-0", "--all"],
        ["status", "--watch", "0"],
        ["status", "--watch", "soon"],
    ],
)
def test_wrong_usage_ends_with_2_and_says_how_it_is_used(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: mlx-mesh" in capsys.readouterr().err


COMMANDS = ["up", "down", "status", "embed", "generate", "chat", "drain", "recycle", "scale", "bench", "config"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_plain_text_with_examples_or_what_its_output_means(
    command: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert "``" not in shown
    assert max(map(len, shown.splitlines())) <= 120
    assert shown.rstrip().splitlines()[-1].strip()[:2] != "--", "something follows the options"


def test_what_an_error_says_for_python_is_said_for_the_command():
    from mlx_mesh.cli.output import told
    from mlx_mesh_wire import InvalidRequestError, NoWorkerError

    error = NoWorkerError("no worker serves 'x'; there is none; start one, or pass wait_for_ready=True to wait for it")
    assert told(error).endswith("there is none; see which workers there are with: mlx-mesh status")
    assert told(InvalidRequestError("wrong")) == "INVALID_REQUEST: wrong"
