"""Peers that send without end, or never read, slow nobody else down and cannot keep the broker from its duties."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from mlx_mesh import DeadlineExceededError, Mesh
from mlx_mesh_wire import encode_header, messages
from tests.broker.dealer import dealer
from tests.live import PATIENCE_S, LiveMesh, Process, live_mesh, until

SENDER = """
import sys, zmq
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.connect(sys.argv[1])
for text in sys.argv[2:]:
    last = bytes.fromhex(text)
    socket.send(last)
while True:
    socket.send(last)
"""

HELLO = encode_header(messages.Hello(1, 0, b"f" * 16, "flood", ""))
FLOODS = {
    "pongs of a client": ("frontend", HELLO, encode_header(messages.Pong(1))),
    "garbage of a client": ("frontend", HELLO, b"\xc1" * 4000),
    "pings of a stranger": ("frontend", encode_header(messages.Ping(1))),
    "pings of a stranger at the backend": ("backend", encode_header(messages.Ping(1))),
    "commands": ("control", encode_header(messages.Command(1, "status"))),
}


@contextmanager
def flood(mesh: LiveMesh, socket: str, *said: bytes) -> Iterator[None]:
    command = [sys.executable, "-c", SENDER, f"ipc://{mesh.dir}/{socket}.sock", *(each.hex() for each in said)]
    senders = [subprocess.Popen(command) for _ in range(2)]
    try:
        yield
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()


@pytest.fixture(scope="module")
def port(mesh: LiveMesh, bystander: Mesh) -> int:
    found = re.search(r"127\.0\.0\.1:(\d+)", mesh.log("broker"))
    assert found
    return int(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("sent", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_holds_up_neither_calls_nor_deadlines_nor_probes(
    mesh: LiveMesh, bystander: Mesh, broker: Process, port: int, sent: tuple[str, *tuple[bytes, ...]]
) -> None:
    process = psutil.Process(broker.pid)
    memory = process.memory_info().rss
    busy = sum(process.cpu_times()[:2])
    with flood(mesh, *sent), dealer(mesh) as peer:
        until(lambda: sum(process.cpu_times()[:2]) - busy > 0.3, "the flood to come")
        assert [bystander.call("echo", n, timeout=PATIENCE_S) for n in range(20)] == list(range(20))
        peer.hello()
        # A deadline that only the broker's own clock can end.
        request = peer.request("nobody", ms=50, flags=messages.Flag.WAIT_FOR_READY)
        assert peer.error(request).code == "DEADLINE_EXCEEDED"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
    assert process.memory_info().rss - memory < 150 << 20
    assert "ready" == bystander.status()["workers"][0]["state"]


@pytest.mark.slow
def test_sigterm_ends_a_broker_under_a_flood() -> None:
    with live_mesh() as mesh:
        process = mesh.broker()
        until(lambda: "broker_ready" in mesh.log("broker"))
        with flood(mesh, *FLOODS["pongs of a client"]):
            used = psutil.Process(process.pid)
            until(lambda: used.cpu_times().user > 0.5, "the flood to come")
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_a_client_that_never_reads_is_cut_off_within_the_bound_and_others_are_served() -> None:
    with live_mesh() as mesh:
        broker = mesh.broker("--client-max-bytes", str(1 << 20), "--client-hwm", "10")
        mesh.worker()
        with Mesh(mesh.endpoint) as bystander:
            bystander.ready(["echo"])
            memory = psutil.Process(broker.pid).memory_info().rss
            with dealer(mesh, hwm=1) as reader:
                reader.hello()  # Until the broker has heard it, there is nobody to be cut off.
                for number in range(64):
                    reader.request(value=bytes([number]) * 100_000)
                until(lambda: bystander.status()["clients"] == 1, "the reader to be cut off")
                assert bystander.call("echo", 1) == 1
                assert psutil.Process(broker.pid).memory_info().rss - memory < 64 << 20
                # Reading again, it learns that it is unknown, and could send again what it has no answer for.
                reader.say(messages.Ping(1))
                assert reader.take(messages.Reset)


@pytest.mark.slow
def test_a_client_that_goes_with_answers_unread_takes_nobody_along() -> None:
    with live_mesh() as mesh:
        broker = mesh.broker("--client-hwm", "10")
        mesh.worker()
        with Mesh(mesh.endpoint) as bystander:
            bystander.ready(["echo"])
            for turn in range(3):
                with dealer(mesh, hwm=1) as reader:
                    reader.say(messages.Hello(1, 0, reader.session, "does not read", ""))
                    for number in range(64):
                        reader.request(value=bytes([number]) * 100_000)
                    wanted = 64 * (turn + 1)
                    until(lambda n=wanted: bystander.status()["counters"]["answered"] >= n, "the answers")
                bystander.status(timeout=PATIENCE_S)
            assert broker.poll() is None


@pytest.mark.slow
def test_a_broker_that_was_stopped_judges_nobody_when_it_goes_on() -> None:
    with live_mesh() as mesh:
        # The worker may be held up as well: for almost as long as its silence is borne.
        broker = mesh.broker("--lost-s", "4", "--suspect-s", "3.5", "--beat-s", "0.2")
        worker = mesh.worker()
        with Mesh(mesh.endpoint) as client:
            client.ready(["echo"])
            broker.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(DeadlineExceededError):
                client.call("echo", 1, timeout=4.5)
            assert time.monotonic() - began >= 4.5
            broker.send_signal(signal.SIGCONT)
            assert client.call("echo", 2, timeout=PATIENCE_S) == 2
            assert [worker.pid] == [each["pid"] for each in client.status()["workers"]]
            assert client.status()["counters"].get("workers_lost", 0) == 0
