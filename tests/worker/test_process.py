"""The worker as a process, against a broker that is a bare ROUTER."""

from __future__ import annotations

import os
import signal
import time

import pytest

from mlx_mesh_wire import messages
from mlx_mesh_wire.recorder import read_running
from tests.live import PATIENCE_S, LiveMesh, Process, until
from tests.worker.peer import Peer

MINE = """
import os, time, threading
from mlx_mesh_worker.engine import BatchEngine, EngineBrokenError

class Upper(BatchEngine):
    ops = ("upper",)
    def run(self, batch):
        return [value.upper() for value in batch]

class Moody(BatchEngine):
    ops = ("moody",)
    batch_max = 1
    def run(self, batch):
        (value,) = batch
        open("begun", "a").write(f"{value}\\n")
        if value == "raise": raise RuntimeError("as asked")
        if value == "break": raise EngineBrokenError("beyond repair")
        if value == "sleep": time.sleep(60)
        while value == "held" and not os.path.exists("go"): time.sleep(0.01)
        open("runs", "a").write(f"{value}\\n")
        return [value]

class Picky(Moody):
    def admit(self, job):
        if job.value() == "killed": os.kill(os.getpid(), 9)
        if job.value() == "stuck": time.sleep(60)
        super().admit(job)

class NoLoad(BatchEngine):
    ops = ("x",)
    def load(self): raise OSError("config.json: no such file")
    def run(self, batch): return batch

class NoComma(Upper): ops = ("shout")

class LateModels(Upper):
    def load(self): self.models = [f"m{number}" for number in range(65)]

NotAnEngine = int
"""

AT_ONCE = """
from mlx_mesh_worker import shell
shell.LOADING_AFTER_S = 3600  # no broker is told that it loads, as of one that does so in a moment
"""


@pytest.fixture
def mesh(mesh: LiveMesh) -> LiveMesh:
    mesh.engine(MINE)
    return mesh


def exit_code(process: Process) -> int:
    return process.wait(PATIENCE_S)


def begun(mesh: LiveMesh, value: str) -> None:
    """Return once a Moody engine computes this: its job has begun, and the record says so."""
    path = mesh.dir / "begun"
    until(lambda: path.exists() and value in path.read_text().splitlines(), f"{value} to begin")


def go_on(mesh: LiveMesh) -> None:
    """Let what is held end."""
    (mesh.dir / "go").touch()


def test_an_engine_of_five_lines_serves_its_op(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Upper")
    ready, _ = peer.take(messages.Ready)
    assert (["upper"], "w", process.pid) == (ready.ops, ready.name, ready.pid)
    peer.job(1, "hello")
    assert peer.answer() == (1, "HELLO")
    beat = until(lambda: of_a_warm_worker(peer.take(messages.Beat)[0]), "a beat of the worker once it was warm")
    assert beat.memory["rss"] > 10_000_000
    assert 10_000_000 < beat.memory["rss_ready"] < 2 * beat.memory["rss"]


def of_a_warm_worker(beat: messages.Beat) -> messages.Beat | None:
    """Return the beat unless it was sent while the worker loaded, as one that takes long over that does."""
    return beat if "rss_ready" in beat.memory else None


def test_echo_returns_buffers_too_and_streams_within_credit(mesh: LiveMesh, peer: Peer) -> None:
    mesh.worker("echo")
    peer.take(messages.Ready)
    peer.job(1, {"a": [1, 2.5, b"x"]})
    assert peer.answer() == (1, {"a": [1, 2.5, b"x"]})
    peer.job(2, list(range(5)), window=2)
    assert [peer.take(messages.Chunk)[0].seq for _ in range(2)] == [0, 1]
    peer.send(messages.Credit(2, 10))
    assert [peer.take(messages.Chunk)[0].seq for _ in range(3)] == [2, 3, 4]
    assert peer.answer() == (2, [0, 1, 2, 3, 4])


def test_an_exception_fails_the_job_and_the_worker_goes_on(mesh: LiveMesh, peer: Peer) -> None:
    mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "raise")
    error, _ = peer.take(messages.Error)
    assert (error.id, error.code, error.message) == (1, "ENGINE_ERROR", "RuntimeError: as asked")
    peer.job(2, "fine")
    assert peer.answer() == (2, "fine")
    until(lambda: "RuntimeError: as asked" in mesh.log("w"), "the traceback in the log")


def test_a_broken_engine_ends_the_process_with_an_error(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "break")
    assert exit_code(process) == 1
    assert "beyond repair" in mesh.log("w")


def test_a_broken_engine_leaves_a_record_of_what_broke_it_and_of_nothing_else(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "held")
    begun(mesh, "held")
    peer.job(2, "break")
    peer.job(3, "waits")
    peer.settle()
    go_on(mesh)
    assert exit_code(process) == 1
    assert frozenset({2}) == read_running(mesh.dir, ready_instance(mesh))


@pytest.mark.parametrize(
    ("engine", "code", "text"),
    [
        ("nonsense", 78, "allowed: echo, embed, generate, or package.module:Class"),
        ("no.such.module:X", 78, "cannot import no.such.module"),
        ("mine:Missing", 78, "has no such class"),
        ("mine:NotAnEngine", 78, "is not a subclass"),
        ("mine:NoComma", 78, "NoComma.ops is 'shout'; allowed: a tuple of names; a tuple of one has a comma"),
        ("mine:LateModels", 78, "LateModels.models is ['m0', "),
        ("mine:NoLoad", 1, "config.json: no such file"),
        ("mine:NoLoad", 1, "load_failed"),
    ],
)
def test_an_engine_that_cannot_be_had_is_explained(mesh: LiveMesh, engine: str, code: int, text: str) -> None:
    mesh.engine(MINE + AT_ONCE)
    assert code == exit_code(mesh.worker(engine))
    assert text.replace("or package", "or package") in mesh.log("w") or text.replace(", or", " or") in mesh.log("w")
    assert [] == list((mesh.dir / "recorders").iterdir())


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--slots", "-1"),
        ("--drain-s", "soon"),
        ("--log-level", "loud"),
        ("--name", "n" * 100),
        ("--name", "two\nlines"),
        ("--broker", "banana"),
        ("--broker", "tcp://127.0.0.1:99999"),
    ],
)
def test_bad_settings_are_refused_by_name(mesh: LiveMesh, flag: str, value: str) -> None:
    assert exit_code(mesh.worker("echo", "w", flag, value)) == 2
    assert flag.strip("-") in mesh.log("w")
    assert repr(value).strip("'") in mesh.log("w")
    assert "allowed" in mesh.log("w")


def test_the_name_that_an_engine_gives_its_worker_is_cut_to_what_the_broker_takes(mesh: LiveMesh, peer: Peer) -> None:
    mesh.engine(f"{MINE}\nclass {'U' * 80}(Upper): pass\n")
    process = mesh.worker(f"mine:{'U' * 80}", "")
    ready, _ = peer.take(messages.Ready)
    assert ready.name == f"{'u' * 52}-{process.pid}"


def test_a_missing_engine_is_refused(mesh: LiveMesh) -> None:
    assert exit_code(mesh.start("mlx-mesh-worker", log="w")) == 2
    assert "--engine is missing" in mesh.log("w")


def test_sigterm_finishes_what_has_begun_returns_the_rest_and_exits_0(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "held")
    begun(mesh, "held")
    peer.job(2, "never")
    peer.settle()
    process.send_signal(signal.SIGTERM)
    assert peer.take(messages.Quiet)[0].on
    go_on(mesh)
    assert peer.take(messages.Return)[0].job_id == 2
    assert peer.answer() == (1, "held")
    peer.take(messages.Bye)
    assert exit_code(process) == 0
    assert "never" not in (mesh.dir / "runs").read_text()


def ready_instance(mesh: LiveMesh) -> bytes:
    (path,) = (mesh.dir / "recorders").iterdir()
    return bytes.fromhex(path.name)


def test_a_second_sigterm_hurries(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "sleep")
    begun(mesh, "sleep")
    process.send_signal(signal.SIGTERM)
    peer.take(messages.Quiet)
    process.send_signal(signal.SIGTERM)
    assert messages.Bye("told to hurry") == peer.take(messages.Bye)[0]
    assert exit_code(process) == 0


def test_the_drain_time_is_bounded(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody", "w", "--drain-s", "0.3")
    peer.take(messages.Ready)
    peer.job(1, "sleep")
    begun(mesh, "sleep")
    process.send_signal(signal.SIGTERM)
    assert exit_code(process) == 0


def test_sigkill_leaves_a_record_of_what_was_running(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "sleep")
    begun(mesh, "sleep")
    peer.job(2, "waits")
    peer.settle()
    process.kill()
    process.wait()
    assert frozenset({1}) == read_running(mesh.dir, ready_instance(mesh))


def test_a_stuck_step_ends_the_process_with_all_stacks_in_its_log(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody", "w", "--stuck-s", "1")
    peer.take(messages.Ready)
    peer.job(1, "sleep")
    assert exit_code(process) == 70
    assert "mine.py" in mesh.log("w")
    assert "stuck" in mesh.log("w")


def test_sigusr1_writes_every_stack_and_changes_nothing(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Upper")
    peer.take(messages.Ready)
    os.kill(process.pid, signal.SIGUSR1)
    until(lambda: "Current thread" in mesh.log("w"), "the stacks")
    peer.job(1, "still here")
    assert peer.answer() == (1, "STILL HERE")


def test_a_reset_is_answered_with_what_is_held_and_nothing_runs_twice(mesh: LiveMesh, peer: Peer) -> None:
    mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "held")
    begun(mesh, "held")
    peer.send(messages.Reset("e2"))
    held, _ = peer.take(messages.Held)
    assert held.jobs == [[b"s" * 16, 1, 1]]
    peer.take(messages.Ready)
    peer.send(messages.Job(9, 2, b"s" * 16, 1, "op", "", 1, 30_000, messages.Flag.RESEND, 0, b"", ""), "held")
    peer.settle()
    go_on(mesh)
    assert peer.answer() == (9, "held")
    assert (mesh.dir / "runs").read_text() == "held\n"


def test_a_step_that_outlasts_the_broker_is_recorded_under_the_ids_of_the_next_one(mesh: LiveMesh, peer: Peer) -> None:
    process = mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    instance = ready_instance(mesh)
    peer.job(1, "sleep")
    begun(mesh, "sleep")
    assert frozenset({1}) == read_running(mesh.dir, instance)
    peer.send(messages.Reset("e2"))
    peer.take(messages.Held)
    until(lambda: frozenset() == read_running(mesh.dir, instance), "the old id to go")
    peer.job(1, "waits", request=2)
    peer.job(2, "sleep", request=1)
    until(lambda: frozenset({2}) == read_running(mesh.dir, instance), "the new id")
    process.kill()
    process.wait()
    assert frozenset({2}) == read_running(mesh.dir, instance)


@pytest.mark.parametrize("end", ["killed", "stuck"])
def test_what_ends_the_process_while_it_is_admitted_is_recorded(mesh: LiveMesh, peer: Peer, end: str) -> None:
    process = mesh.worker("mine:Picky", "w", "--stuck-s", "1")
    peer.take(messages.Ready)
    peer.job(1, "fine")
    peer.job(2, end)
    assert exit_code(process) == (-signal.SIGKILL if end == "killed" else 70)
    assert frozenset({2}) == read_running(mesh.dir, ready_instance(mesh))


def test_a_complaint_of_the_broker_and_its_goodbye_are_logged(mesh: LiveMesh, peer: Peer) -> None:
    mesh.worker("mine:Upper")
    peer.take(messages.Ready)
    peer.send(messages.Error(0, "PROTOCOL_ERROR", "Ready.name has length 100", False, 0))
    peer.send(messages.Bye("this broker speaks protocol 2"))
    peer.job(1, "still here")
    assert peer.answer() == (1, "STILL HERE")
    log = mesh.log("w")
    assert "broker_complaint code=PROTOCOL_ERROR reason=Ready.name has length 100" in log
    assert "broker_goodbye reason=this broker speaks protocol 2" in log


def test_cancelled_and_expired_jobs_are_not_computed(mesh: LiveMesh, peer: Peer) -> None:
    mesh.worker("mine:Moody")
    peer.take(messages.Ready)
    peer.job(1, "held")
    begun(mesh, "held")
    peer.job(2, "cancelled")
    peer.job(3, "expired", ms=50)
    peer.send(messages.Cancel(2))
    peer.settle()
    time.sleep(0.06)  # it was there before this began, and expires meanwhile
    go_on(mesh)
    assert peer.answer() == (1, "held")
    error, _ = peer.take(messages.Error)
    assert (error.id, error.code) == (3, "DEADLINE_EXCEEDED")
    assert (mesh.dir / "runs").read_text() == "held\n"


def test_malformed_messages_from_the_broker_are_survived(mesh: LiveMesh, peer: Peer) -> None:
    mesh.worker("mine:Upper")
    peer.take(messages.Ready)
    for junk in ([b""], [b"\xc1", b"x"], [b"x"] * 12, [b"\x91\x23"]):
        peer.socket.send_multipart([peer.route, *junk])
    peer.job(1, "fine")
    assert peer.answer() == (1, "FINE")
