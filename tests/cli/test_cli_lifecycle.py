"""Starting and stopping: by mlx-mesh, by supervisord itself, twice, side by side, and when it cannot work."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_shell import PATIENCE_S, TOP, Shell, changed_conf, wait_for

from mlx_mesh_wire.endpoints import listening

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.timeout(240)  # Each starts whole meshes, some of them several times.

EMBED = ("embed-0", "embed-1")
WARM_BROKER = """
import time
from pathlib import Path

from mlx_mesh_broker.main import main

Path("broker.warm").touch()
while Path("broker.gate").exists():
    time.sleep(0.02)
raise SystemExit(main([]))
"""
"""A broker that has imported all that it needs, and begins to listen once nothing stands in its way."""

ASKS = """
import sys
from pathlib import Path

from mlx_mesh.cli import connect, main

look = connect._process


def looks():
    Path(sys.argv[1]).unlink(missing_ok=True)
    return look()


connect._process = looks
raise SystemExit(main(sys.argv[2:]))
"""
"""The command; when it has found no broker, and looks whether one is about to be there, it removes a file."""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_supervisord_alone_serves_a_user_who_never_had_a_mesh(make_shell: Callable[..., Shell]):
    shell = make_shell(default_run_dir=True)
    shell.cwd = TOP
    started = shell.run("supervisord", "-c", "supervisord.conf")
    assert started.returncode == 0, started.stderr.decode()
    before = shell.wait_ready(*EMBED)
    shell.cwd = Path("/")
    assert len(json.loads(shell.good("embed", "hello"))) == 384
    assert stat.S_IMODE(shell.run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((shell.run_dir / "supervisor.sock").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in shell.run_dir.glob("*.log")} == {0o600}
    assert "workers:embed-0: started" in shell.supervisorctl("restart", "workers:embed-0")
    after = shell.wait_ready(*EMBED, but={before["embed-0"]})
    assert after["embed-1"] == before["embed-1"]
    assert shell.good("down") == "the mesh is down\n"
    assert not any(map(alive, {*before.values(), *after.values()}))


def test_supervisorctl_acts_on_the_mesh_of_the_run_directory(make_shell: Callable[..., Shell], echo_conf: Path):
    shell = make_shell()
    assert shell.run("supervisord", "-c", echo_conf).returncode == 0
    wait_for(lambda: shell.supervisorctl("status").count("RUNNING") == 4, "four processes")
    wait_for(lambda: "broker_ready" in shell.supervisorctl("tail", "-20000", "broker"), "a broker that says so")
    assert "workers:embed-1: stopped" in shell.supervisorctl("stop", "workers:embed-1")
    shell.wait_ready("embed-0")
    assert "embed-1  STOPPED" in " ".join(shell.good("status").split(" ")).replace("   ", "  ")
    assert "workers:embed-1: started" in shell.supervisorctl("start", "workers:*")
    before = shell.wait_ready(*EMBED)
    os.kill(before["embed-0"], signal.SIGKILL)
    os.kill(before["embed-1"], signal.SIGTERM)
    before = shell.wait_ready(*EMBED, but=before.values())
    epoch = json.loads(shell.good("status", "--json"))["epoch"]
    assert "broker: started" in shell.supervisorctl("restart", "broker")
    before = shell.wait_ready(*EMBED)
    assert json.loads(shell.good("status", "--json"))["epoch"] != epoch
    shell.supervisorctl("stop", "broker")
    refused = shell.bad("status")
    assert f"the mesh is up and its broker is STOPPED: look into {shell.run_dir}/broker.log, then:" in refused
    shell.supervisorctl("start", "broker")
    assert "Restarted supervisord" in shell.supervisorctl("reload")
    shell.wait_ready(*EMBED, but=before.values())


def test_a_command_waits_for_a_broker_that_is_about_to_be_there(make_shell: Callable[..., Shell], tmp_path: Path):
    shell = make_shell()
    (tmp_path / "warm_broker.py").write_text(WARM_BROKER)
    conf = changed_conf(tmp_path, "command = mlx-mesh-broker", f"command = {sys.executable} {tmp_path}/warm_broker.py")
    conf.write_text(conf.read_text().replace("--engine embed", "--engine echo"))
    shell.good("up", "--detach", "--conf", conf)
    before = json.loads(shell.good("status", "--json"))
    broker = next(process["pid"] for process in before["processes"] if process["name"] == "broker")
    gate, warm = shell.run_dir / "broker.gate", shell.run_dir / "broker.warm"
    gate.touch()
    warm.unlink()
    os.kill(broker, signal.SIGKILL)
    # So that a command that waits for five seconds does not wait for Python to start, which may take longer.
    wait_for(warm.exists, "a broker that is about to listen")
    assert not listening(f"ipc://{shell.run_dir}/frontend.sock")
    done = shell.run("python", "-c", ASKS, gate, "status", "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert not gate.exists(), "it did not have to wait"
    assert json.loads(done.stdout)["epoch"] != before["epoch"]
    assert shell.good("down") == "the mesh is down\n"


def test_meshes_live_side_by_side_and_each_is_up_at_most_once(make_shell: Callable[..., Shell], echo_conf: Path):
    one, two = make_shell(), make_shell()
    for shell in (one, two):
        assert "the mesh is up" in shell.good("up", "--detach", "--conf", echo_conf)
    assert not set(one.wait_ready(*EMBED).values()) & set(two.wait_ready(*EMBED).values())
    assert "is up already" in one.bad("up", "--detach", "--conf", echo_conf)
    assert one.good("down") == "the mesh is down\n"
    assert one.good("down") == f"nothing is up in {one.run_dir}\n"
    assert "no broker is running" in one.bad("status")
    two.wait_ready(*EMBED)
    one.good("up", "--detach", "--conf", echo_conf)
    assert "supervisord does not answer" not in one.good("status")
    left = [*one.wait_ready(*EMBED).values(), json.loads((one.run_dir / "broker.lock").read_text())["pid"]]
    os.kill(int((one.run_dir / "supervisord.pid").read_text()), signal.SIGKILL)
    assert "supervisord does not answer: what ends is not started again" in one.good("status")
    for pid in left:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: b"nothing is up" in one.run("mlx-mesh", "down").stdout, "the broker's end")


def test_up_in_the_foreground_shows_the_logs_and_stops_everything_on_ctrl_c(no_mesh: Shell, echo_conf: Path):
    process = no_mesh.start("mlx-mesh", "up", "--conf", echo_conf)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    assert any(b"the mesh is up" in line for line in lines)
    assert "workers:embed-0: started" in no_mesh.supervisorctl("restart", "workers:embed-0")
    assert any(b"embed-0 | " in line for line in lines)
    pids = no_mesh.wait_ready(*EMBED).values()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, stderr.decode()
    assert "embed-0: ready" in stderr.decode()
    assert not any(map(alive, pids))
    assert no_mesh.good("down").startswith("nothing is up")


def test_a_worker_that_cannot_start_is_shown_with_its_log_and_nothing_is_left(no_mesh: Shell, tmp_path: Path):
    conf = changed_conf(tmp_path, "--engine embed", f"--engine embed --model {tmp_path}/no-such-model")
    conf.write_text(conf.read_text().replace("startretries = 3", "startretries = 1"))
    errors = no_mesh.bad("up", "--detach", "--conf", conf)
    assert re.search(r"embed-\d: (FATAL|EXITED) after", errors), "EXITED: it had run for a second, on a busy machine"
    assert "no-such-model" in errors
    assert "could not be started; its log is" in errors
    assert no_mesh.good("down").startswith("nothing is up")


def test_a_guard_with_wrong_settings_is_shown_with_its_log_and_nothing_is_left(no_mesh: Shell, echo_conf: Path):
    conf = echo_conf.with_name("impatient.conf")
    conf.write_text(echo_conf.read_text().replace("startretries = 3", "startretries = 1"))
    no_mesh.env["MLX_MESH_GUARD_TRIM_AT"] = "0.9"
    errors = no_mesh.bad("up", "--detach", "--conf", conf)
    assert "guard.pause_at: 0.85 is not allowed; allowed: more than trim_at, which is 0.9" in errors
    assert "guard could not be started; its log is" in errors
    assert no_mesh.good("down").startswith("nothing is up")


def test_a_run_directory_that_others_may_enter_is_refused_by_supervisord_and_by_up(no_mesh: Shell):
    no_mesh.run_dir.mkdir(mode=0o755)
    assert f"run: chmod 700 {no_mesh.run_dir}" in no_mesh.bad("up", "--detach")
    refused = no_mesh.run("supervisord", "-c", TOP / "supervisord.conf")
    assert refused.returncode == 2
    assert "others may enter it" in refused.stderr.decode()


def test_a_run_directory_with_a_long_path_is_refused(no_mesh: Shell):
    no_mesh.env["MLX_MESH_RUN_DIR"] = str(no_mesh.run_dir / ("x" * 100))
    assert "is too long" in no_mesh.bad("up", "--detach")


def test_a_conf_that_is_not_there_or_no_mesh_s_is_refused(no_mesh: Shell, tmp_path: Path):
    assert "there is no such file" in no_mesh.bad("up", "--conf", tmp_path / "none")
    (tmp_path / "elsewhere").write_text("[supervisord]\n;[rpcinterface:mlx_mesh]\n")
    assert "elsewhere has no [rpcinterface:mlx_mesh]" in no_mesh.bad("up", "--conf", tmp_path / "elsewhere")
    (tmp_path / "broken").write_text("[rpcinterface:mlx_mesh]\n[supervisord\n")
    assert "supervisord did not start" in no_mesh.bad("up", "--conf", tmp_path / "broken")


def test_a_broker_started_by_hand_is_left_alone(no_mesh: Shell):
    broker = no_mesh.start("mlx-mesh-broker")
    worker = no_mesh.start("mlx-mesh-worker", "--engine", "echo", "--name", "by-hand")
    try:
        wait_for((no_mesh.run_dir / "control.sock").exists, "the broker's sockets")
        wait_for(lambda: "by-hand" in no_mesh.run("mlx-mesh", "status").stdout.decode(), "the worker")
        for refused in (no_mesh.bad("up", "--detach"), no_mesh.bad("down")):
            assert f"has no supervisord; end it and its workers with: kill {broker.pid} {worker.pid}" in refused
        assert "by-hand" in no_mesh.good("status")
    finally:
        for process in (worker, broker):
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
