"""Operators: commands on the control socket, and the records on the event socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from mlx_mesh import Mesh
from mlx_mesh_wire import decode_header, messages, pack_body, unpack_body
from tests.broker.dealer import Dealer, dealer
from tests.live import LiveMesh, Process, until


@pytest.fixture
def operator(mesh: LiveMesh, bystander: Mesh) -> Iterator[Dealer]:
    with dealer(mesh, "control") as made:
        yield made
    assert bystander.call("echo", "undisturbed", timeout=5.0) == "undisturbed"


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
        ("explode", {}, None, "'explode' does not exist; allowed are status, drain, exited, config, ping"),
        ("drain", {}, "name", "drain needs name"),
        ("drain", {"name": 5}, "name", "drain needs name"),
        ("drain", {"name": "w", "on": 1}, "name", "drain needs name"),
        ("drain", {"name": "nobody"}, "name", "no worker is called 'nobody'; there are: w"),
        ("drain", {"name": "x" * 5000}, "name", "no worker is called 'xxx"),
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


def test_a_pid_that_is_said_to_have_ended_is_a_lost_worker(mesh: LiveMesh, operator: Dealer, bystander: Mesh) -> None:
    process: Process = mesh.worker("echo", "second")
    until(lambda: len(bystander.status()["workers"]) == 2, "the second worker")
    command(operator, "exited", {"pid": process.pid})
    # It lives: its next beat is answered with RESET, and it comes back.
    until(lambda: "worker_gone" in mesh.log("broker"), "the worker to be given up")
    until(lambda: len(bystander.status()["workers"]) == 2, "the worker to come back")
    mesh.stop([process])


@pytest.fixture
def watcher(mesh: LiveMesh, bystander: Mesh) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(f"ipc://{mesh.dir}/events.sock")
        yield socket


def records(watcher: zmq.Socket[bytes], wait_ms: int = 300) -> list[tuple[bytes, int, list[dict[str, Any]]]]:
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

    def heard() -> list[Any]:
        bystander.call("echo", "are you there")
        return records(watcher, 20)

    until(heard, "the subscription")
    records(watcher)
    for number in range(40):
        bystander.call("echo", "x" * number, lane="bulk")
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
        assert bystander.call("echo", number, timeout=2.0) == number
    watcher.unsubscribe(b"requests")
    assert bystander.call("echo", 1, timeout=2.0) == 1
