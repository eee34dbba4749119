"""Operators: commands on the control socket, and the records on the event socket."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from mlx_mesh import DeadlineExceededError, Mesh
from mlx_mesh_wire import decode_header, messages, pack_body, unpack_body
from mlx_mesh_wire.host import machine_id
from tests.broker.dealer import Dealer, dealer
from tests.core.guard_words import CALM
from tests.live import PATIENCE_S, LiveMesh, until


@pytest.fixture
def operator(mesh: LiveMesh, bystander: Mesh) -> Iterator[Dealer]:
    with dealer(mesh, "control") as made:
        yield made
    assert bystander.call("echo", "undisturbed", timeout=PATIENCE_S) == "undisturbed"


def command(operator: Dealer, name: str, args: Any = None) -> Any:
    operator.say(messages.Command(1, name), *(pack_body(args) if args is not None else ()))
    return operator.answer(1)


def refusal(operator: Dealer, name: str, args: Any = None) -> tuple[messages.Error, Any]:
    operator.say(messages.Command(1, name), *(pack_body(args) if args is not None else ()))
    error, frames = operator.take(messages.Error, of=1)
    return error, unpack_body(frames)


def test_ping_status_and_config_answer(operator: Dealer, bystander: Mesh) -> None:
    epoch = command(operator, "ping")["epoch"]
    status = command(operator, "status", {})
    assert epoch == status["epoch"] == bystander.status()["epoch"]
    assert ["w"] == [worker["name"] for worker in status["workers"]]
    config = command(operator, "config")
    assert (0, 64, []) == (config["metrics_port"], config["client_max_outstanding"], config["listen"])


def test_a_drained_worker_gets_nothing_until_it_is_taken_back(operator: Dealer, bystander: Mesh) -> None:
    assert ["draining"] == [worker["state"] for worker in command(operator, "drain", {"name": "w"})]
    request = bystander.stream("echo", ["later"], wait_for_ready=True)
    until(lambda: bystander.status()["queues"][0]["waiting"]["standard"] == 1, "the request to wait")
    assert ["ready"] == [worker["state"] for worker in command(operator, "drain", {"name": "*", "on": False})]
    assert list(request) == ["later"]


@pytest.mark.parametrize(
    ("name", "args", "field", "text"),
    [
        ("explode", {}, None, "'explode' does not exist; allowed are status, drain, exited, trim, guard, config, ping"),
        ("drain", {}, "name", "drain needs name"),
        ("drain", {"name": 5}, "name", "drain needs name"),
        ("drain", {"name": "w", "on": 1}, "name", "drain needs name"),
        ("drain", {"name": "nobody"}, "name", "no worker is called 'nobody'; there are: w"),
        ("drain", {"name": "x" * 5000}, "name", "no worker is called 'xxx"),
        ("drain", {"name": "w", "by": "nobody"}, "by", "by is 'nobody', must be 'operator' or 'guard'"),
        ("drain", {"name": "w", "by": ["guard"]}, "by", "by is ['guard']"),
        ("drain", {"name": "w", "pid": -1}, "pid", "pid is -1, must be an integer of at least 0"),
        ("drain", {"name": "w", "pid": True}, "pid", "pid is True"),
        ("trim", {}, "name", "trim needs name"),
        ("trim", {"name": "w"}, "level", "level is None, must be an integer from 0 to 2"),
        ("trim", {"name": "w", "level": True}, "level", "level is True"),
        ("trim", {"name": "w", "level": 3}, "level", "level is 3"),
        ("trim", {"name": "nobody", "level": 1}, "name", "no worker is called 'nobody'; there are: w"),
        ("guard", {}, "pause", "pause is None, must be one of '', 'bulk', 'standard'"),
        ("guard", {"pause": "interactive"}, "pause", "pause is 'interactive'"),
        ("guard", {"pause": {}}, "pause", "pause is {}"),
        ("guard", {"pause": ""}, "report", "report must be a map"),
        ("guard", {"pause": "", "report": {"pid": 1}}, "report.uptime_s", "report.uptime_s must be given"),
        ("exited", {}, "pid", "pid is None"),
        ("exited", {"pid": 0}, "pid", "pid is 0"),
        ("exited", {"pid": True}, "pid", "pid is True"),
        ("exited", {"pid": "1"}, "pid", "pid is '1'"),
        ("status", [1], "body", "arguments must be a map"),
    ],
)
def test_a_wrong_command_is_refused_with_what_is_wrong(
    operator: Dealer, name: str, args: Any, field: str | None, text: str
) -> None:
    error, details = refusal(operator, name, args)
    assert error.code == "INVALID_REQUEST"
    assert text in error.message
    assert field == details.get("field")


def test_arguments_that_are_no_body_are_refused(operator: Dealer) -> None:
    operator.say(messages.Command(1, "drain"), b"\xc1")
    assert operator.error(1).code == "PROTOCOL_ERROR"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b""], "PROTOCOL_ERROR"),
        ([b"\xc1", b"x"], "PROTOCOL_ERROR"),
        ([msgpack.packb([48, 0, "status"])], "PROTOCOL_ERROR"),
        ([msgpack.packb([48, 1])], "PROTOCOL_ERROR"),
        ([msgpack.packb([48, 1, "x" * 65])], "PROTOCOL_ERROR"),
        ([msgpack.packb([48, 1, "status"]), *[b""] * 8], "TOO_LARGE"),
    ],
)
def test_a_malformed_command_is_answered_and_the_next_one_works(
    operator: Dealer, frames: list[bytes], code: str
) -> None:
    operator.raw(*frames)
    assert operator.error(0).code == code
    assert command(operator, "ping")["epoch"]


def test_messages_that_are_no_commands_are_ignored(operator: Dealer) -> None:
    operator.say(messages.Ping(1))
    operator.say(messages.Hello(1, 0, b"s" * 16, "", ""))
    operator.raw(msgpack.packb([99]))
    assert command(operator, "ping")["epoch"]
    assert operator.seen == []


def test_more_commands_than_a_batch_are_all_answered(operator: Dealer) -> None:
    for number in range(300):
        operator.say(messages.Command(number + 1, "ping"))
    for number in range(300):
        operator.take(messages.Final, of=number + 1)


def test_a_pid_that_is_said_to_have_ended_is_a_lost_worker_unless_its_process_lives(
    mesh: LiveMesh, operator: Dealer, bystander: Mesh
) -> None:
    (alive,) = (worker["pid"] for worker in bystander.status()["workers"])
    error, details = refusal(operator, "exited", {"pid": alive})
    assert ("INVALID_REQUEST", f"pid {alive} is a worker that is alive") == (error.code, error.message)
    assert {"field": "pid"} == details
    assert command(operator, "exited", {"pid": 2**31 - 1}) is None
    with dealer(mesh, "backend") as worker, dealer(mesh) as client:
        # When this one started is not known, so nothing but the command tells of its end.
        worker.ready(ops=["by-hand"], pid=alive, pid_start=0, machine=machine_id())
        client.hello()
        request = client.request("by-hand", flags=messages.Flag.AT_MOST_ONCE)
        worker.take(messages.Job)
        assert command(operator, "exited", {"pid": alive}) is None
        assert "WORKER_LOST" == client.error(request).code
    assert ["w"] == [worker["name"] for worker in bystander.status()["workers"]]


def test_a_guard_is_told_of_the_workers_and_its_word_holds_for_a_while(
    mesh: LiveMesh, operator: Dealer, bystander: Mesh
) -> None:
    word = {"report": CALM._replace(pid=os.getpid()).as_map(), "pause": "bulk"}
    told = command(operator, "guard", word)
    status = bystander.status()
    assert [status["epoch"], ["w"]] == [told["epoch"], [worker["name"] for worker in told["workers"]]]
    assert told["workers"][0].keys() == status["workers"][0].keys()
    assert (os.getpid(), "bulk") == (status["guard"]["pid"], status["paused"])
    assert 0 <= status["guard"]["age_s"] < 10
    command(operator, "guard", word)  # Said again, as a guard does: it holds for ten seconds from now.
    with pytest.raises(DeadlineExceededError):
        bystander.call("echo", 1, lane="bulk", timeout=0.3)
    assert 2 == bystander.call("echo", 2, lane="standard", timeout=PATIENCE_S)
    command(operator, "guard", {"report": CALM.as_map(), "pause": ""})
    assert 3 == bystander.call("echo", 3, lane="bulk", timeout=PATIENCE_S)


def test_memory_is_asked_of_local_workers_by_name(mesh: LiveMesh, operator: Dealer) -> None:
    with dealer(mesh, "backend") as near, dealer(mesh, "backend") as far:
        near.ready(ops=["by-hand"], name="near", machine=machine_id())
        far.ready(ops=["by-hand"], name="far")
        assert 1 == command(operator, "trim", {"name": "near", "level": 2})
        assert 2 == near.take(messages.Trim)[0].level
        assert 2 == command(operator, "trim", {"name": "*", "level": 0})
        assert 0 == near.take(messages.Trim)[0].level
        error, _ = refusal(operator, "trim", {"name": "far", "level": 1})
        assert "no worker is called 'far'; there are: near, w" == error.message
        assert not [message for message in far.settle() if isinstance(message, messages.Trim)]
        (drained,) = command(operator, "drain", {"name": "near", "by": "guard"})
        assert ("draining", "guard") == (drained["state"], drained["drained_by"])
        for each in (near, far):
            each.leave()


CONNECT = """
import os, socket, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError as error:
        print(error.errno)
    else:
        print("connected")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_nobody_but_the_owner_reaches_the_sockets(mesh: LiveMesh, operator: Dealer) -> None:
    supervisor = mesh.dir / "supervisor.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(supervisor))
        listener.listen()
        supervisor.chmod(0o777)  # The folder alone keeps others out.
        paths = [str(mesh.dir / f"{name}.sock") for name in ("control", "supervisor", "frontend", "backend", "events")]
        done = subprocess.run(
            [sys.executable, "-I", "-c", CONNECT, *paths], capture_output=True, text=True, timeout=30, check=False
        )
        assert ([str(errno.EACCES)] * 5, "") == (done.stdout.split(), done.stderr)
    supervisor.unlink()
    assert 0o700 == mesh.dir.stat().st_mode & 0o777
    assert 0 == (mesh.dir / "control.sock").stat().st_mode & 0o077


@pytest.fixture
def watcher(mesh: LiveMesh, bystander: Mesh) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(f"ipc://{mesh.dir}/events.sock")
        yield socket


def records(watcher: zmq.Socket[bytes], wait_ms: int) -> list[tuple[bytes, int, list[dict[str, Any]]]]:
    found = []
    while watcher.poll(wait_ms):
        topic, header, *frames = watcher.recv_multipart()
        message = decode_header(header)
        assert isinstance(message, messages.Events)
        found.append((topic, message.records, unpack_body(frames)))
    return found


@pytest.mark.slow
def test_watchers_get_a_record_of_each_request_in_batches(watcher: zmq.Socket[bytes], bystander: Mesh) -> None:
    watcher.subscribe(b"requests")

    def told_of_lane(lane: int) -> bool:
        return any(record["lane"] == lane for _, _, each in records(watcher, 20) for record in each)

    def heard() -> bool:
        bystander.call("echo", "are you there")
        return told_of_lane(1)

    until(heard, "the subscription")
    bystander.call("echo", "the last one of before", lane="interactive")
    until(lambda: told_of_lane(0), "the records of before")
    # All at once, so that not each of them has a batch of its own, however slow the machine is.
    calls = [bystander.stream("echo", [], lane="bulk") for _ in range(40)]
    assert [[]] * 40 == [list(call) for call in calls]
    got: list[Any] = []
    until(lambda: got.extend(records(watcher, 20)) or sum(count for _, count, _ in got) >= 40, "the records")
    assert {b"requests"} == {topic for topic, _, _ in got}
    assert len(got) < 40
    assert all(count == len(each) for _, count, each in got)
    flat = [record for _, _, each in got for record in each]
    assert 40 == len(flat) == len({record["request_id"] for record in flat})
    assert {("echo", 2, "OK", 1)} == {(r["op"], r["lane"], r["outcome"], r["attempts"]) for r in flat}
    assert all(0 <= r["queue_ms"] <= r["total_ms"] for r in flat)


@pytest.mark.slow
def test_nothing_is_recorded_for_nobody_and_a_watcher_that_does_not_read_holds_up_nobody(
    mesh: LiveMesh, watcher: zmq.Socket[bytes], bystander: Mesh
) -> None:
    watcher.set(zmq.RCVHWM, 1)
    watcher.subscribe(b"requests")
    for number in range(300):
        assert bystander.call("echo", number, timeout=PATIENCE_S) == number
    watcher.unsubscribe(b"requests")
    assert bystander.call("echo", 1, timeout=PATIENCE_S) == 1
