"""What becomes of supervisord itself: it outlives its own reload, and what its handlers meet."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_mesh.cli.supervise import hurry
from mlx_mesh_wire.supervisor import Supervisor
from tests.cli.cli_shell import BIN, PATIENCE_S, wait_for

WAYS = ((), ("-c", "supervisord.conf"), ("-csupervisord.conf",), ("--conf=supervisord.conf", "-e", "debug"))
CONF = """
[rpcinterface:mlx_mesh]
supervisor.rpcinterface_factory = mlx_mesh.cli.supervisord_plugin:enter
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[unix_http_server]
file = supervisor.sock
[supervisord]
nodaemon = true
[program:sleeper]
command = sleep 1000
process_name = sleeper-%(process_num)d
numprocs = 1
startsecs = 0
stopsignal = KILL
"""


def names(supervisor: Supervisor) -> list[str]:
    return [process["name"] for process in supervisor.processes() if process["pid"]]


def test_a_reload_finds_the_conf_again_however_supervisord_had_found_it(tmp_path: Path):
    (tmp_path / "supervisord.conf").write_text(CONF)
    runs = [tmp_path / f"r{number}" for number in range(len(WAYS))]
    started = [
        subprocess.Popen(
            [BIN / "supervisord", *words],
            cwd=tmp_path,
            env={**os.environ, "MLX_MESH_RUN_DIR": str(run)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words, run in zip(WAYS, runs, strict=True)
    ]
    meshes = [Supervisor(run, timeout=PATIENCE_S) for run in runs]
    try:
        for mesh in meshes:
            wait_for(lambda mesh=mesh: names(mesh) == ["sleeper-0"], "it to be up")
            mesh.add("sleeper")
            mesh._call("supervisor.restart")
        for mesh in meshes:
            wait_for(lambda mesh=mesh: names(mesh) == ["sleeper-0"], "it to be up again, with what the conf says")
            assert mesh.add("sleeper") == "sleeper:sleeper-1"
        assert [each.poll() for each in started] == [None] * len(WAYS)
    finally:
        for each in started:
            each.terminate()
        for each in started:
            each.wait(PATIENCE_S)


def test_a_signal_that_the_kernel_refuses_to_send_again_does_no_harm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hurry, "TIMES", 4)
    process = SimpleNamespace(pid=os.getpid(), killing=True, config=SimpleNamespace(stopsignal=9999))
    found = hurry.Hurry()
    before = signal.getsignal(signal.SIGALRM)
    try:
        found.add(process)
        wait_for(lambda: not found._told, "it to have been told often enough")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
