"""``make demo`` from start to stop, and however else it may end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_shell import Shell

from mlx_mesh.cli import up
from mlx_mesh_wire.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = ("python", "-m", "mlx_mesh.cli.demo")
RUNNING_S = 250
pytestmark = pytest.mark.timeout(300)  # It does much.


class Demo:
    """A demo under way.

    Attributes:
        directory: its run directory.
    """

    def __init__(self, shell: Shell, *args: str) -> None:
        self.process = shell.start(*DEMO, *args)
        self.directory = Path(self.line("supervisord, in").split()[-1])

    def line(self, text: str) -> str:
        """Return the next line of its output with that text."""
        assert self.process.stdout is not None
        return next(line.decode() for line in iter(self.process.stdout.readline, b"") if text.encode() in line)

    def end(self) -> tuple[str, str]:
        """Wait for its end and return what it said."""
        stdout, stderr = self.process.communicate(timeout=RUNNING_S)
        return stdout.decode(), stderr.decode()

    def left(self) -> list[str]:
        """Return what it has left: its folder, and processes that belong to it."""
        found = [str(self.directory)] if self.directory.exists() else []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                mine = f"MLX_MESH_RUN_DIR={self.directory}".encode() in environ.read_bytes()
            except OSError:
                continue
            if mine:
                found.append(environ.parent.name)
        return found


@pytest.fixture
def shell(no_mesh: Shell) -> Shell:
    """Nobody's settings, and no mesh: the demo makes its own."""
    del no_mesh.env["MLX_MESH_RUN_DIR"]
    return no_mesh


@pytest.fixture
def demo(shell: Shell) -> Iterator[Demo]:
    begun = Demo(shell)
    yield begun
    if begun.process.poll() is None:
        begun.process.terminate()
        begun.process.communicate(timeout=RUNNING_S)


def test_the_demo_embeds_answers_compares_and_stops_all_that_it_started(shell: Shell):
    demo = Demo(shell, "--paragraphs", "600")
    stdout, stderr = demo.end()
    assert demo.process.returncode == 0, stderr
    assert re.search(r"Embedding \d+ paragraphs .*: \d+ of this project's documentation, \d+ of Python's", stdout)
    assert re.search(r"texts/s, [\d,]+ tokens/s, vectors of 384 numbers by sentence-transformers/", stdout)
    places = re.findall(r"^0\.\d{3}  (\S+)$", stdout, re.MULTILINE)
    assert len(places) == 12
    assert any(place.endswith(".md") for place in places[:3]), "the first question is about this project"
    assert any(place.startswith("subprocess") for place in places[3:6])
    (ratio,) = map(int, re.findall(r"A warm call is ([\d,]+) times as fast", stdout))
    assert ratio > 1
    assert re.search(r"^embed-1  ready ", stdout, re.MULTILINE)
    assert "Everything is stopped." in stdout
    assert demo.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_interrupted_leaves_nothing(demo: Demo, number: signal.Signals):
    demo.line("== Embedding")
    demo.process.send_signal(number)
    _, stderr = demo.end()
    assert (demo.process.returncode, "Traceback" in stderr) == (130, False), stderr
    assert "interrupted; stopping what was started" in stderr
    assert demo.left() == []


def test_a_demo_that_is_interrupted_at_once_and_again_leaves_nothing(demo: Demo):
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.stderr is not None
    assert any(b"interrupted" in line for line in iter(demo.process.stderr.readline, b""))
    demo.process.send_signal(signal.SIGINT)
    demo.process.send_signal(signal.SIGTERM)
    demo.end()
    # The later signals may find Python on its way out, with its own handlers gone.
    assert demo.process.returncode in (130, -signal.SIGINT, -signal.SIGTERM)
    assert demo.left() == []


def test_a_demo_whose_workers_do_not_start_fails_and_leaves_nothing(shell: Shell):
    shell.env["MLX_MESH_WORKER_MODEL"] = str(shell.home / "no-such-model")
    demo = Demo(shell)
    stdout, stderr = demo.end()
    assert demo.process.returncode == 1
    assert re.search(r"^demo: embed-\d could not be started", stderr, re.MULTILINE)
    assert "no-such-model" in stderr
    assert "Everything is stopped" not in stdout
    assert demo.left() == []


def test_an_interrupt_while_supervisord_detaches_itself_does_not_leave_it_running(
    no_mesh: Shell, echo_conf: Path, monkeypatch: pytest.MonkeyPatch
):
    real = subprocess.run

    def run(*args: object, **options: object) -> object:
        done = real(*args, **options)  # type: ignore[call-overload]
        os.kill(os.getpid(), signal.SIGINT)
        return done

    monkeypatch.setattr(up.subprocess, "run", run)
    monkeypatch.setenv("MLX_MESH_RUN_DIR", str(no_mesh.run_dir))
    supervisor = Supervisor(no_mesh.run_dir)
    with pytest.raises(KeyboardInterrupt):
        up.start(no_mesh.run_dir, supervisor, echo_conf)
    assert supervisor.pid() is None
    assert not (no_mesh.run_dir / "supervisord.pid").exists()
