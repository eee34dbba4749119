"""status, embed with texts, drain, bench and config on a running mesh, and without one."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cli_shell import BIN, PATIENCE_S, Shell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("command", [["status"], ["embed", "hello"], ["drain", "embed-0"], ["bench"]])
def test_without_a_broker_every_command_says_at_once_how_to_start_one(no_mesh: Shell, command: list[str]):
    assert no_mesh.bad(*command) == (
        f"mlx-mesh: no broker is running in {no_mesh.run_dir}; start the mesh with: mlx-mesh up\n"
    )


def test_status_is_a_table_of_workers_and_queues(mesh: Shell):
    text = mesh.good("status")
    assert text.startswith("broker ")
    header, first, second = (line.split() for line in text.splitlines()[2:5])
    assert header[:3] == ["WORKER", "STATE", "PID"]
    assert (first[:2], second[:2]) == (["embed-0", "ready"], ["embed-1", "ready"])
    assert "INTERACTIVE" in text


def test_status_in_json_has_what_scripts_need(mesh: Shell):
    status = json.loads(mesh.good("status", "--json"))
    assert {"epoch", "uptime_s", "workers", "queues", "limits", "counters", "processes"} <= set(status)
    assert [worker["slots"] > 0 for worker in status["workers"]] == [True, True]
    names = {process["name"] for process in status["processes"]}
    assert names == {"broker", "guard", "embed-0", "embed-1", "generate-0"}


def test_status_again_and_again_tells_the_rate(mesh: Shell):
    import signal

    process = mesh.start("mlx-mesh", "status", "--watch", "0.1")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    assert any(b"requests/s" in line for line in lines)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)  # It may have shown more than fits into the pipe.
    assert process.returncode == 130


def test_watching_goes_on_while_the_broker_does_not_answer(mesh: Shell):
    import signal

    (broker,) = (p["pid"] for p in json.loads(mesh.good("status", "--json"))["processes"] if p["name"] == "broker")
    process = mesh.start("mlx-mesh", "status", "--watch", "0.1", "--timeout", "0.3")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    os.kill(broker, signal.SIGSTOP)
    try:
        assert process.stderr.readline().startswith(b"mlx-mesh: DEADLINE_EXCEEDED")
    finally:
        os.kill(broker, signal.SIGCONT)
    lines = iter(process.stdout.readline, b"")
    assert any(b"requests/s" in line for line in lines)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130


def test_a_text_gives_one_vector_as_a_json_array(mesh: Shell):
    vector = json.loads(mesh.good("embed", "hello"))
    assert len(vector) == 384
    assert abs(sum(x * x for x in vector) - 1) < 1e-5


def test_several_texts_give_a_line_each_in_order(mesh: Shell):
    lines = mesh.good("embed", "one", "two").splitlines()
    assert np.allclose(json.loads(lines[1]), json.loads(mesh.good("embed", "two")), atol=1e-5)
    assert len(lines) == 2


def test_texts_are_read_from_standard_input(mesh: Shell):
    rows = [
        json.loads(line)
        for line in mesh.good("embed", "-", "--format", "jsonl", stdin="é\n\nb\n".encode()).split("\n")[:-1]
    ]
    assert [row["text"] for row in rows] == ["é", "b"]
    assert all(row["tokens"] >= 3 and len(row["vector"]) == 384 for row in rows)


def test_vectors_can_be_a_numpy_file(mesh: Shell):
    done = mesh.mesh("embed", "-", "--format", "npy", stdin=b"".join(b"text %d\n" % i for i in range(300)))
    array = np.load(io.BytesIO(done.stdout))
    assert array.shape == (300, 384)
    assert np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-5)


def test_vectors_can_keep_their_length(mesh: Shell):
    vector = json.loads(mesh.good("embed", "hello", "--no-normalize"))
    assert abs(sum(x * x for x in vector) - 1) > 1e-2


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["embed", " "], b"", "text 1 is blank"),
        (["embed", "-"], b"\n", "standard input has no text"),
        (["embed", "-"], b"\xff", "not valid UTF-8"),
        (["embed", "x", "--model", "nonsense"], b"", "UNKNOWN_MODEL"),
        (
            ["embed", "x", "--timeout", "0.000001"],
            b"",
            "see what waits with: mlx-mesh status, or allow more with --timeout",
        ),
        (["bench", "--op", "echo"], b"", "the mesh serves embed; see which workers there are with: mlx-mesh status"),
        (["drain", "nobody"], b"", "there is no worker 'nobody'; workers are: embed-0, embed-1"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(mesh: Shell, arguments: list[str], stdin: bytes, told: str):
    errors = mesh.bad(*arguments, stdin=stdin)
    assert told in errors
    assert len(errors.splitlines()) == 1


def test_a_reader_that_leaves_early_is_no_error(mesh: Shell):
    import subprocess

    command = f"{BIN}/mlx-mesh embed - < texts.txt | head -1 | wc -l"
    (mesh.home / "texts.txt").write_text("text\n" * 600)
    done = subprocess.run(
        ["sh", "-c", command], env=mesh.env, cwd=mesh.home, capture_output=True, timeout=PATIENCE_S, check=True
    )
    assert (done.stdout.split(), done.stderr) == ([b"1"], b"")


def test_a_drained_worker_gets_nothing_until_it_is_put_back(mesh: Shell):
    def served() -> dict[str, tuple[str, int]]:
        workers = json.loads(mesh.good("status", "--json"))["workers"]
        return {worker["name"]: (worker["state"], worker["served"]) for worker in workers}

    try:
        assert "embed-0 is drained" in mesh.good("drain", "embed-0")
        before = served()
        assert before["embed-0"][0] == "draining"
        mesh.good("bench", "-t", "0.2")
        after = served()
        assert after["embed-0"][1] == before["embed-0"][1]
        assert after["embed-1"][1] > before["embed-1"][1]
        assert "embed-0 serves again" in mesh.good("drain", "embed-0", "--undo")
        mesh.wait_ready("embed-0", "embed-1")
        assert "gets nothing new" in mesh.good("drain", "embed-0", "--no-wait")
    finally:
        mesh.good("drain", "embed-0", "--undo")


def test_bench_measures_latency_and_throughput(mesh: Shell):
    figures = json.loads(mesh.good("bench", "-t", "0.5", "-c", "4", "--json"))
    assert figures["requests"] > 0
    assert figures["p50_s"] <= figures["p95_s"] <= figures["p99_s"] <= figures["max_s"]
    assert figures["errors"] == {}
    assert "REQUESTS/S" in mesh.good("bench", "-t", "0.2")


def test_config_tells_each_setting_and_where_it_comes_from(no_mesh: Shell):
    (no_mesh.home / "mesh.toml").write_text("[broker]\nqueue_max_requests = 7\n")
    no_mesh.env["MLX_MESH_WORKER_DRAIN_S"] = "12"
    settings = json.loads(no_mesh.good("config", "--json"))
    assert settings["run_dir"] == {"value": str(no_mesh.run_dir), "source": "MLX_MESH_RUN_DIR"}
    assert settings["broker.queue_max_requests"] == {"value": 7, "source": "mesh.toml"}
    assert settings["worker.drain_s"] == {"value": 12.0, "source": "MLX_MESH_WORKER_DRAIN_S"}
    assert settings["broker.deaths_max"]["source"] == "default"
    assert "worker.drain_s" in no_mesh.good("config")


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("[broker]\nqueue_max_requests = 0\n", "queue_max_requests: 0 is not allowed; allowed: an integer from 1"),
        ("[broker]\nqueue_max_request = 5\n", "did you mean queue_max_requests?"),
        ("[brokers]\n", "[brokers] is not a section"),
        ("[broker\n", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(no_mesh: Shell, tmp_path: Path, toml: str, told: str):
    path = tmp_path / "mesh.toml"
    path.write_text(toml)
    assert told in no_mesh.bad("config", "--check", path)


def test_a_right_file_passes_the_check(no_mesh: Shell, tmp_path: Path):
    path = tmp_path / "mesh.toml"
    path.write_text("[worker]\nslots = 4\n")
    assert "good, it sets 1 of" in no_mesh.good("config", "--check", path)
    assert "there is no such file" in no_mesh.bad("config", "--check", tmp_path / "none")
