"""The methods that supervisord is taught: restarts that nobody waits for, groups that grow and shrink."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mlx_mesh import Mesh
from mlx_mesh_wire.supervisor import BAD_NAME, UNKNOWN_METHOD, Supervisor, SupervisorError
from tests.cli.cli_shell import BIN, PATIENCE_S, wait_for
from tests.supervise.conftest import GATED_DRAIN_S, Console


def environment(pid: int) -> dict[str, str]:
    """Return the environment of a process: until it has become its program that of supervisord, empty without one."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in words if word)


def catches(pid: int, number: int) -> bool:
    """Say whether a process has a handler for a signal yet, without which the signal may end it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


@pytest.fixture
def held(console: Console, tmp_path: Path):
    """A call that ``gated-0`` holds until the gate, whose path this gives, is gone; the call must succeed."""
    gate, answers = tmp_path / "gate", []
    gate.touch()
    with Mesh(f"ipc://{console.run_dir}/frontend.sock") as mesh:
        mesh.ready(ops=["gated"], timeout=PATIENCE_S)
        asked = partial(mesh.call, "gated", str(gate), wait_for_ready=True, timeout=2 * PATIENCE_S)
        call = threading.Thread(target=lambda: answers.append(asked()))
        call.start()
        try:
            wait_for(gate.with_suffix(".begun").exists, "it to begin")
            yield gate
        finally:
            gate.unlink(missing_ok=True)
            call.join(PATIENCE_S)
    assert answers == [str(gate)]


def test_every_process_is_told_with_its_program_and_what_it_is(console: Console):
    told = {p["name"]: (p["program"], p["worker"], p["engine"], p["guard"]) for p in console.supervisor.look()}
    assert told["broker"] == ("broker", False, "", False)
    assert told["embed-1"] == ("embed", True, "echo", False)
    assert told["gated-0"] == ("gated", True, "gated_engine:Gated0", False)
    assert told["plain"] == ("plain", True, "echo", False)
    standard = console.supervisor._call("supervisor.getProcessInfo", "workers:embed-0")
    assert standard.keys() <= console.process("workers:embed-0").keys()


def test_the_methods_are_documented_where_supervisord_documents_its_own(console: Console):
    methods = console.supervisor._call("system.listMethods")
    assert {f"mlx_mesh.{name}" for name in ("processes", "groups", "restart", "add", "remove")} <= set(methods)
    assert console.supervisor._call("system.methodSignature", "mlx_mesh.restart") == ["boolean", "string", "boolean"]


def test_a_restart_is_done_by_supervisord_itself_whoever_asked(console: Console):
    before = console.pid("workers:embed-0")
    console.run("python", "-c", f"{ASK}.restart('workers:embed-0')")  # and that process is gone
    wait_for(lambda: console.pid("workers:embed-0") not in {0, before}, "another embed-0")
    assert not console.process("workers:embed-0")["restarting"]


def test_one_that_died_is_about_to_be_started_again_and_not_given_up(console: Console):
    supervisord, seen = console.supervisord_pid(), set()
    assert supervisord
    for _ in range(20):
        wait_for(lambda: console.pid("mixed:gated-0"), "it to run")
        pid = console.pid("mixed:gated-0")
        # It is shown as ended for one turn of supervisord's loop; that takes in a question that has waited for it.
        os.kill(supervisord, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(console.process, "mixed:gated-0")
            time.sleep(0.1)
            os.kill(supervisord, signal.SIGCONT)
            told = asked.result(PATIENCE_S)
        seen.add((told["statename"], told["restarting"]))
        if ("EXITED", True) in seen:
            break
    assert ("EXITED", True) in seen
    assert ("EXITED", False) not in seen


ASK = "import os, pathlib, mlx_mesh_wire.supervisor as s; s.Supervisor(pathlib.Path(os.environ['MLX_MESH_RUN_DIR']))"


@pytest.mark.parametrize("what", ["mixed:gated-0", "mixed:*"])
def test_a_stop_wins_over_a_restart_that_waits_for_the_worker_to_drain(console: Console, held: Path, what: str):
    for _ in range(2):  # the second time it is under way already
        console.supervisor.restart("mixed:gated-0")
        told = console.process("mixed:gated-0")
        assert (told["statename"], told["restarting"]) == ("STOPPING", True)
    stopper = threading.Thread(target=console.ctl, args=("stop", what))
    stopper.start()
    wait_for(lambda: not console.process("mixed:gated-0")["restarting"], "the restart to be called off")
    with pytest.raises(SupervisorError, match="mixed:gated-0 is being stopped"):
        console.supervisor.restart("mixed:gated-0")
    held.unlink()
    stopper.join(PATIENCE_S)
    assert console.process("mixed:gated-0")["statename"] == "STOPPED"
    for name in console.states("mixed"):
        if not console.pid(f"mixed:{name}"):
            console.supervisor.start(f"mixed:{name}")


def test_a_worker_that_is_to_hurry_leaves_with_work_in_hand_and_another_does_it(console: Console, held: Path):
    before, begun = console.pid("mixed:gated-0"), time.monotonic()
    console.supervisor.restart("mixed:gated-0", hurry=True)
    wait_for(lambda: console.pid("mixed:gated-0") not in {0, before}, "its successor")
    assert time.monotonic() - begun < GATED_DRAIN_S - 10, "it drained instead: the gate is shut"


def test_a_restart_starts_what_does_not_run(console: Console):
    console.ctl("stop", "mixed:plain")
    console.supervisor.restart("mixed:plain")
    assert console.process("mixed:plain")["statename"] in {"STARTING", "RUNNING"}  # RUNNING: a second later
    assert console.supervisor.add("mixed", "gated") == "mixed:gated-1"
    wait_for(lambda: console.process("mixed:gated-1")["statename"] == "EXITED", "it to fail: there is one gated only")
    assert not console.process("mixed:gated-1")["restarting"], "its exit status says that it would not help"
    first = console.process("mixed:gated-1")["stop"]
    wait_for(lambda: console.process("mixed:gated-1")["now"] > first, "the clock of supervisord to advance")
    console.supervisor.restart("mixed:gated-1")
    wait_for(lambda: console.process("mixed:gated-1")["stop"] > first, "it to run and fail again")
    console.supervisor.remove("mixed:gated-1")
    assert set(console.states("mixed")) == {"gated-0", "plain"}  # at once, as it does not run


def test_one_more_is_as_the_file_describes_it_and_no_change_of_the_group(console: Console):
    name = console.supervisor.add("workers", "embed")
    assert name == "workers:embed-2"
    told = console.process(name)
    assert (told["scaled"], told["stand_in"], told["program"], told["engine"]) == (True, False, "embed", "echo")
    assert told["stdout_logfile"] == "embed-2.log"
    assert console.supervisor.add("workers", stand_in=True) == "workers:embed-3"
    assert console.process("workers:embed-3")["stand_in"]
    console.wait_running(name, "workers:embed-3")
    wait_for(lambda: "SUPERVISOR_GROUP_NAME" in environment(told["pid"]), "it to have become its program")
    shown = environment(told["pid"])
    assert (shown["OPENBLAS_NUM_THREADS"], shown["SHARED"], shown["SUPERVISOR_GROUP_NAME"]) == (
        "1",
        "by all",
        "workers",
    )
    assert "--name\0embed-2" in Path(f"/proc/{told['pid']}/cmdline").read_text()
    # supervisorctl takes them for what they are: processes of the group.
    assert console.ctl("reread") == "No config updates to processes\n"
    assert console.ctl("update") == ""
    assert "embed-2: stopped" in console.ctl("stop", name)
    assert "embed-2: started" in console.ctl("start", "workers:*")
    assert console.ctl("restart", "workers:*").count("started") == 4
    wait_for(lambda: catches(console.pid(name), signal.SIGUSR1), "it to have begun again")
    assert "embed-2: signalled" in console.ctl("signal", "USR1", name)
    wait_for(lambda: "Current thread" in console.ctl("tail", "-100000", name), "the stacks in its log")
    for each in (name, "workers:embed-3"):
        console.supervisor.remove(each)
        with contextlib.suppress(SupervisorError):  # It may be gone by now; if it is there still, it is no more work.
            console.supervisor.remove(each)
        wait_for(lambda each=each: each.partition(":")[2] not in console.states(), f"{each} to be gone")
    assert (console.run_dir / "embed-2.log").exists()
    (row,) = [row for row in console.supervisor.groups() if row["group"] == "workers"]
    expected = {"group": "workers", "program": "embed", "worker": True, "engine": "echo", "numprocs": 2}
    assert row == {**expected, "processes": ["embed-0", "embed-1"]}


def test_what_was_removed_of_the_file_comes_back_first(console: Console):
    console.supervisor.remove("workers:embed-0")
    wait_for(lambda: set(console.states()) == {"embed-1"}, "embed-0 to be gone")
    assert console.ctl("reread") == "No config updates to processes\n"
    assert console.supervisor.add("workers") == "workers:embed-0"
    assert not console.process("workers:embed-0")["scaled"]


def test_a_real_change_of_the_file_makes_the_group_what_the_file_says(console: Console):
    assert console.supervisor.add("mixed", "gated") == "mixed:gated-1"
    wait_for(lambda: console.process("mixed:gated-1")["statename"] == "EXITED", "it to fail: there is one gated only")
    path = console.conf.with_name("mixed.ini")
    path.write_text(path.read_text().replace('OWN="number', 'OWN="changed'))
    assert "mixed: changed" in console.ctl("reread")
    assert "mixed: updated process group" in console.ctl("update")
    assert set(console.states("mixed")) == {"gated-0", "plain"}
    console.wait_running("mixed:plain")
    wait_for(lambda: environment(console.pid("mixed:gated-0")).get("OWN") == "changed 0", "the other's new environment")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda s: s.restart("workers:nobody"), "workers has no process 'nobody'; it has: embed-0, embed-1"),
        (lambda s: s.remove("nothing"), "there is no group 'nothing'; groups are: broker, generate, mixed, workers"),
        (lambda s: s.add("nothing"), "there is no group 'nothing'; groups are: broker"),
        (lambda s: s.add("mixed"), "mixed has several programs; name one of: gated, plain"),
        (lambda s: s.add("mixed", "other"), "mixed has no program 'other'; it has: gated, plain"),
        (lambda s: s.add("mixed", "plain"), r"bear no number; write process_name = plain-%\(process_num\)d into"),
        (lambda s: s.start("workers:nobody"), "bad name: workers:nobody"),
        (lambda s: s.log_tail("workers:nobody"), "bad name: workers:nobody"),
        (lambda s: s.signal("workers:embed-0", "NONSENSE"), "bad signal: NONSENSE"),
    ],
)
def test_what_is_refused_is_told_with_what_there_is(console: Console, ask: Callable[[Supervisor], object], told: str):
    with pytest.raises(SupervisorError, match=told) as caught:
        ask(console.supervisor)
    assert not caught.value.unreachable


def test_nobody_there_is_told_from_refusing(tmp_path: Path):
    supervisor = Supervisor(tmp_path)
    assert (supervisor.pid(), supervisor.processes()) == (None, [])
    with pytest.raises(SupervisorError, match="does not answer at") as caught:
        supervisor.look()
    assert caught.value.unreachable


def test_supervisord_that_stops_starts_nothing_again(make_console: Callable[[], Console], tmp_path: Path):
    console = make_console()
    console.good("up", "--detach", "--conf", console.conf)
    pids = [console.pid(f"workers:embed-{number}") for number in range(2)]
    supervisord = console.supervisor.pid()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # so that they are still there when supervisord is told to stop
    for number in range(2):
        console.supervisor.restart(f"workers:embed-{number}")
    console.supervisor.shut_down()
    with pytest.raises(SupervisorError) as caught:
        console.supervisor.look()
    assert caught.value.stopping
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not Path(f"/proc/{supervisord}").exists(), "supervisord to be gone")
    log = (console.run_dir / "supervisord.log").read_text()
    assert log.count("spawned: 'embed-") == 2


def test_a_conf_without_the_plugin_is_told_of_where_it_matters(make_console: Callable[[], Console]):
    console = make_console()
    console.run_dir.mkdir(mode=0o700)
    console.conf.write_text(PLAIN.format(bin=BIN, run=console.run_dir))
    assert console.run("supervisord", "-c", console.conf).returncode == 0
    (process,) = console.supervisor.look()
    assert (process["worker"], process["engine"], process["restarting"]) == (True, "echo", False)
    with pytest.raises(SupervisorError, match=r"no \[rpcinterface:mlx_mesh\]") as caught:
        console.supervisor.add("lone")
    assert caught.value.code == UNKNOWN_METHOD
    with pytest.raises(SupervisorError) as caught:
        console.supervisor.stop("lone:other")
    assert caught.value.code == BAD_NAME


PLAIN = """
[supervisord]
directory = {run}
pidfile = {run}/supervisord.pid
logfile = {run}/supervisord.log
[unix_http_server]
file = {run}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:lone]
command = env A=1 {bin}/mlx-mesh-worker --engine=echo
"""
