"""A corpus that is interrupted, shared, or kills workers. Vectors are exact here, so whole files are compared."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cli_shell import PATIENCE_S, Shell, wait_for
from odd_engine import DEADLY, HELD, SLOW

from mlx_mesh_wire.supervisor import Supervisor

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

ROWS = 1000
HELD_ROW = 850
"""Two workers take over 1.2 s for what comes before: by then a run has noted how far it is, as it does each second."""


class Run:
    """A corpus run of about two seconds that has written its first rows, and does not get on until it may.

    Attributes:
        gate: a worker that has come to a certain row waits as long as there is this file.
    """

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.shell = shell
        self.folder = folder
        self.source = folder / "in.txt"
        self.out = folder / "out.npy"
        self.texts = [f"{SLOW} {folder.name} {i} {'x' * (i % 7)}" for i in range(ROWS)]
        self.gate = folder / "gate"
        self.gate.touch()
        self.texts[HELD_ROW] = f"{HELD}{self.gate}"
        self.source.write_text("\n".join(self.texts) + "\n")
        self.command = ("embed", "--file", self.source, "--out", self.out)
        self.process: subprocess.Popen[bytes] = shell.start("mlx-mesh", *self.command)
        wait_for((folder / "out.npy.progress").exists, "the first rows")

    def finish(self) -> tuple[int, str]:
        """Let it get on and wait for its end; return exit status and stderr."""
        self.gate.unlink(missing_ok=True)
        return self._end()

    def _end(self) -> tuple[int, str]:
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        self.gate.unlink(missing_ok=True)
        return self.process.returncode, stderr.decode()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> str:
        """End it by a signal and return its stderr."""
        self.process.send_signal(number)
        status, stderr = self._end()
        assert status == 130, stderr
        return stderr

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self._end()

    def check(self) -> None:
        """The output is what an undisturbed run gives, and nothing else is left."""
        expected = np.array([[len(t), ord(t[0]), ord(t[-1])] for t in self.texts], dtype="<f4")
        assert np.array_equal(expected, np.load(self.out))
        assert {path.name for path in self.folder.iterdir()} == {"in.txt", "out.npy"}


@pytest.fixture
def run(odd_mesh: Shell, tmp_path: Path) -> Iterator[Run]:
    begun = Run(odd_mesh, tmp_path)
    yield begun
    begun.kill()  # Its pipes, too, are not left to tests that come later.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_corpus_goes_on_and_comes_out_the_same(run: Run, number: signal.Signals):
    assert "interrupted; run the same command again to go on" in run.interrupt(number)
    done = json.loads((run.folder / "out.npy.progress").read_text())
    assert 0 < done["rows"] == done["line"] < ROWS
    assert np.load(run.folder / "out.npy.partial").shape[0] >= done["rows"]
    again = run.shell.mesh(*run.command)
    assert again.returncode == 0
    assert f"going on after line {done['line']:,} of {ROWS:,}" in again.stderr.decode()
    run.check()


def test_a_corpus_whose_process_was_killed_goes_on_too(run: Run):
    run.kill()
    run.shell.good(*run.command)
    run.check()


def test_a_run_is_not_continued_with_another_input_or_other_options(run: Run):
    run.interrupt()
    assert "the options are others" in run.shell.bad(*run.command, "--no-normalize")
    run.texts = ["one", "two"]
    run.source.write_text("one\ntwo\n")
    assert "the input has changed" in run.shell.bad(*run.command)
    run.shell.good(*run.command, "--restart")
    run.check()


def test_two_runs_do_not_write_one_output(run: Run):
    assert "is being written by another run" in run.shell.bad(*run.command)
    assert run.finish()[0] == 0
    run.check()


def test_killed_workers_and_a_killed_broker_cost_no_row(run: Run):
    pids = {process["name"]: process["pid"] for process in Supervisor(run.shell.run_dir).look()}
    for name in ("embed-0", "broker"):
        os.kill(pids[name], signal.SIGKILL)
    status, stderr = run.finish()
    assert status == 0, stderr
    run.check()


def test_a_text_that_kills_workers_is_told_with_its_line_and_all_others_have_their_vectors(
    odd_mesh: Shell, tmp_path: Path
):
    texts = [f"text {i} {'x' * (i % 7)}" for i in range(100)]
    texts[40] = DEADLY
    source, out = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("\n".join(texts) + "\n")
    assert "line 41: POISON_REQUEST" in odd_mesh.bad("embed", "--file", source, "--out", out)
    good = [text for text in texts if text != DEADLY]
    assert np.array_equal([[len(t), ord(t[0]), ord(t[-1])] for t in good], np.load(out))
    skipped = [json.loads(line) for line in (tmp_path / "out.npy.skipped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in skipped] == [41]


def test_with_skip_bad_such_a_text_is_no_failure(odd_mesh: Shell, tmp_path: Path):
    source, out = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text(f"one\n{DEADLY}\ntwo\n")
    done = odd_mesh.mesh("embed", "--file", source, "--out", out, "--skip-bad")
    assert done.returncode == 0, done.stderr.decode()
    assert np.load(out).shape == (2, 3)
