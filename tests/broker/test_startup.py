"""How the broker starts, refuses to start, and stops; each exit status and what is said with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlx_mesh import Mesh, NoWorkerError
from tests.live import PATIENCE_S, LiveMesh, Process, free_ports, live_mesh, until

HELD_UP = "broker_was_held_up"
"""What a broker logs of a busy machine, at any time."""


@pytest.fixture
def own() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        yield mesh


def started(mesh: LiveMesh, *args: str) -> Process:
    before = mesh.log("broker").count("broker_ready")
    process = mesh.broker(*args)
    until(lambda: mesh.log("broker").count("broker_ready") > before, "the broker to be ready")
    return process


def test_a_second_broker_on_a_run_directory_exits_3_and_names_the_first(own: LiveMesh) -> None:
    first = started(own)
    own.worker()
    with Mesh(own.endpoint) as client:
        client.ready(["echo"])
        assert own.broker().wait(PATIENCE_S) == 3
        assert f"pid {first.pid}" in own.log("broker")
        assert str(own.dir) in own.log("broker")
        assert client.call("echo", 1) == 1


@pytest.mark.parametrize("left", ['{"pid": 999999, "started": "long ago"}', "", "no json", "[]"])
def test_the_lock_of_a_process_that_is_gone_is_taken_over(own: LiveMesh, left: str) -> None:
    (own.dir / "broker.lock").write_text(left)
    (own.dir / "frontend.sock").touch()
    process = started(own)
    assert process.pid == json.loads((own.dir / "broker.lock").read_text())["pid"]


def test_a_broker_that_was_killed_leaves_nothing_that_keeps_the_next_from_starting(own: LiveMesh) -> None:
    first = started(own)
    first.kill()
    first.wait()
    process = started(own)
    own.worker()
    with Mesh(own.endpoint) as client:
        client.ready(["echo"])
        assert client.call("echo", 1) == 1
    assert process.poll() is None


def test_after_a_broker_that_was_killed_a_new_client_waits_for_the_worker_to_come_back(own: LiveMesh) -> None:
    broker, worker = started(own), own.worker()
    with Mesh(own.endpoint) as client:
        client.ready(["echo"])
    worker.send_signal(signal.SIGSTOP)  # It comes back after the client, however busy the machine is.
    broker.kill()
    broker.wait()
    second = started(own, "--rejoin-s", "60")
    with Mesh(own.endpoint) as client, ThreadPoolExecutor() as pool:
        answer = pool.submit(client.call, "echo", 7, timeout=60)
        until(lambda: client.status()["counters"]["outstanding"], "a request that waits")
        worker.send_signal(signal.SIGCONT)
        assert answer.result() == 7
    own.stop([worker, second])
    started(own)
    with Mesh(own.endpoint) as client, pytest.raises(NoWorkerError):
        client.call("echo", 7)


TOML = {
    "queue_max_requests = 0": ["broker.queue_max_requests", "0 is not", "from 1 to 10000000"],
    "queue_max_requests = 'many'": ["broker.queue_max_requests", "'many' is not", "an integer"],
    "queue_max_requests = true": ["broker.queue_max_requests", "True is not", "an integer"],
    "lost_s = nan": ["broker.lost_s", "nan is not", "from 0.2 to 3600"],
    "single_flight = 1": ["broker.single_flight", "1 is not", "true or false"],
    "log_format = 'xml'": ["broker.log_format", "'xml' is not", "one of console, json"],
    "listen = 'tcp://127.0.0.1:5570'": ["broker.listen", "is not", "a list of strings"],
    "lost = 5": ["'lost'", "did you mean lost_s?"],
    "metrics_port = 70000": ["broker.metrics_port", "70000 is not", "default, off, an integer from 0 to 65535"],
    "metrics_port = 'on'": ["broker.metrics_port", "'on' is not", "default, off, an integer from 0 to 65535"],
    "= broken": ["mesh.toml", "cannot be read"],
}


@pytest.mark.parametrize("line", TOML, ids=TOML.keys())
def test_a_bad_line_of_mesh_toml_exits_2_and_names_field_given_and_allowed(own: LiveMesh, line: str) -> None:
    (own.dir / "mesh.toml").write_text(f"[broker]\n{line}\n")
    assert own.broker().wait(PATIENCE_S) == 2
    log = own.log("broker")
    assert [] == [part for part in ["mesh.toml", *TOML[line]] if part not in log], log
    assert "Traceback" not in log


def test_an_unknown_section_a_bad_flag_and_a_bad_variable_exit_2_too(own: LiveMesh) -> None:
    (own.dir / "odd.toml").write_text("[brokers]\n")
    odd = {"MLX_MESH_CONFIG": str(own.dir / "odd.toml")}
    assert own.start("mlx-mesh-broker", log="a", env=odd).wait(PATIENCE_S) == 2
    assert "[brokers] is not a section; allowed are broker" in own.log("a")
    assert own.start("mlx-mesh-broker", "--lost-s", "soon", log="b").wait(PATIENCE_S) == 2
    assert "--lost-s: 'soon' is not allowed; allowed: a number from" in own.log("b")
    bad = {"MLX_MESH_BROKER_CLIENT_HWM": "0"}
    assert own.start("mlx-mesh-broker", log="c", env=bad).wait(PATIENCE_S) == 2
    assert "MLX_MESH_BROKER_CLIENT_HWM: 0 is not allowed" in own.log("c")


@pytest.mark.parametrize("flag", ["listen", "listen-workers"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5570", "tcp://*:5570", "tcp://192.168.1.7:5570", "tcp://[::]:5570", "tcp://example.org:5570",
        "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999", "tcp://[::1", "tcp://lo:5570",
        "ipc://@abstract", "ipc://relative", "ipc://", "inproc://x", "udp://127.0.0.1:1", "127.0.0.1:5570",
    ],
)  # fmt: skip
def test_what_would_open_the_mesh_to_others_or_is_no_endpoint_is_refused(
    own: LiveMesh, endpoint: str, flag: str
) -> None:
    assert own.broker(f"--{flag}", endpoint).wait(PATIENCE_S) == 2
    assert f"{flag.replace('-', '_')}: {endpoint!r} is not allowed" in own.log("broker")
    assert "allowed: " in own.log("broker")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_endpoints_serve_clients_and_workers(own: LiveMesh, host: str) -> None:
    front, back = (f"tcp://{host}:{port}" for port in free_ports(2))
    started(own, "--listen", front, "--listen-workers", back)
    own.worker("echo", "w", "--broker", back)
    with Mesh(front) as client, Mesh(own.endpoint) as other:
        client.ready(["echo"])
        assert client.call("echo", "over tcp") == other.call("echo", "over tcp")


def test_an_address_that_is_taken_exits_4_and_names_it(own: LiveMesh) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert own.broker("--listen", endpoint).wait(PATIENCE_S) == 4
    assert "cannot_bind" in own.log("broker")
    assert endpoint in own.log("broker")
    assert "Address already in use" in own.log("broker")
    started(own)  # The lock was given back.


def test_the_run_directory_and_all_in_it_is_closed_to_others(own: LiveMesh) -> None:
    inner = own.dir / "inner" / "run"
    process = own.start("mlx-mesh-broker", log="broker", env={"MLX_MESH_RUN_DIR": str(inner)})
    until(lambda: "broker_ready" in own.log("broker"))
    assert 0o700 == stat.S_IMODE(inner.stat().st_mode)
    sockets = sorted(path.name for path in inner.glob("*.sock"))
    assert ["backend.sock", "control.sock", "events.sock", "frontend.sock"] == sockets
    open_to_others = [path.name for path in inner.iterdir() if path.stat().st_mode & 0o077]
    assert [] == open_to_others
    assert process.poll() is None


def test_a_run_directory_that_others_may_enter_is_refused_with_the_remedy(own: LiveMesh) -> None:
    own.dir.chmod(0o750)
    assert own.broker().wait(PATIENCE_S) == 2
    assert f"run: chmod 700 {own.dir}" in own.log("broker")


def test_a_run_directory_with_too_long_a_path_is_refused(own: LiveMesh) -> None:
    long = {"MLX_MESH_RUN_DIR": str(own.dir / ("x" * 100))}
    assert own.start("mlx-mesh-broker", log="broker", env=long).wait(PATIENCE_S) == 2
    assert "choose a shorter directory" in own.log("broker")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_that_is_told_to_stop_does_so_at_once_and_removes_its_sockets(
    own: LiveMesh, number: signal.Signals
) -> None:
    process = started(own, "--metrics-port", "0")
    own.worker()
    with Mesh(own.endpoint) as client:
        client.ready(["echo"])
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < 10.0  # generous: the machine may be busy
    assert [] == list(own.dir.glob("*.sock"))
    assert (own.dir / "broker.lock").read_text() == ""
    assert "broker_stopped" in own.log("broker").splitlines()[-1]


def test_log_lines_are_for_people_or_for_machines(own: LiveMesh) -> None:
    own.stop([started(own)])
    assert " info    broker_ready run_dir=" in own.log("broker")
    process = own.start("mlx-mesh-broker", "--log-format", "json", "--log-level", "info", log="json")
    until(lambda: "broker_ready" in own.log("json"))
    own.stop([process])
    lines = [json.loads(line) for line in own.log("json").splitlines() if HELD_UP not in line]
    assert ["broker_ready", "broker_stopped"] == [line["event"] for line in lines]
    assert process.pid == lines[0]["pid"]
    assert {"time", "level", "event"} <= lines[1].keys()


def test_a_log_level_leaves_out_what_is_below_it(own: LiveMesh) -> None:
    process = own.broker("--log-level", "warning")
    until((own.dir / "frontend.sock").exists)
    with Mesh(own.endpoint) as client:
        client.status()
    own.stop([process])
    assert [] == [line for line in own.log("broker").splitlines() if HELD_UP not in line]


def test_settings_come_from_the_file_then_the_environment_then_flags(own: LiveMesh) -> None:
    (own.dir / "mesh.toml").write_text("[broker]\nclient_max_outstanding = 3\nqueue_max_requests = 5\n")
    own.env["MLX_MESH_BROKER_QUEUE_MAX_REQUESTS"] = "6"
    own.env["MLX_MESH_BROKER_QUEUE_MAX_BYTES"] = "1000"
    started(own, "--queue-max-bytes", "2000")
    with Mesh(own.endpoint) as client:
        limits = client.status()["limits"]
    assert (3, 6, 2000) == tuple(limits[name] for name in ("outstanding_max", "queue_max_requests", "queue_max_bytes"))


def test_two_meshes_live_side_by_side(own: LiveMesh) -> None:
    with live_mesh() as other:
        epochs = set()
        for mesh in (own, other):
            started(mesh)
            with Mesh(mesh.endpoint) as client:
                epochs.add(client.status()["epoch"])
    assert len(epochs) == 2
    assert os.getuid() == own.dir.stat().st_uid
