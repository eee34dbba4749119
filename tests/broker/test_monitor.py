"""/metrics, /healthz and /readyz of a running broker."""

from __future__ import annotations

import contextlib
import re
import select
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlx_mesh import DeadlineExceededError, Mesh, NoWorkerError
from mlx_mesh_wire import messages, pack_body
from mlx_mesh_wire.guard_report import Footprint, Limit, Recycle
from tests.broker.dealer import dealer
from tests.core.guard_words import CALM, fatal
from tests.live import PATIENCE_S, PATIENT, LiveMesh, Process, live_mesh, until

SOON_S = 8.0
"""Less than the 10 s after which an idle connection is given up, so that who waited for one is found out."""


def port_of(mesh: LiveMesh) -> int:
    found = until(lambda: re.search(r"metrics_on .*127\.0\.0\.1:(\d+)/metrics", mesh.log("broker")), "the port")
    return int(found[1])


def get(port: int, path: str, timeout: float = PATIENCE_S) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(get(port, "/metrics")[1])
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return "mlx_mesh_" + name, frozenset(labels.items())


@pytest.fixture(scope="module")
def port(mesh: LiveMesh, bystander: Mesh) -> int:
    return port_of(mesh)


def test_metrics_count_what_happened(mesh: LiveMesh, bystander: Mesh, port: int) -> None:
    before = samples(port)
    for number in range(5):
        bystander.call("echo", number, lane="interactive")
    for number in range(3):
        bystander.call("echo", number, lane="bulk")
    assert list(bystander.stream("echo", [1, 2, 3, 4])) == [1, 2, 3, 4]
    for op in ("no-such-op", "nor-this"):
        with pytest.raises(NoWorkerError):
            bystander.call(op, 1)
    with pytest.raises(DeadlineExceededError):
        bystander.call("late", 1, timeout=0.05, wait_for_ready=True)
    with dealer(mesh) as peer:
        peer.hello()
        peer.raw(b"\xc1")
        peer.error(0)
    until(lambda: samples(port)[key("requests_outstanding")] == 0, "the end of what was late")
    rss = key("worker_memory_bytes", worker="w", kind="rss")
    until(lambda: rss in samples(port), "a beat of the worker")
    after = samples(port)

    def grown(name: str, **labels: str) -> float:
        return after[key(name, **labels)] - before.get(key(name, **labels), 0.0)

    echo = {"op": "echo", "model": ""}
    assert grown("requests_total", **echo, lane="interactive", outcome="OK") == 5
    assert grown("requests_total", **echo, lane="bulk", outcome="OK") == 3
    assert grown("requests_total", **echo, lane="standard", outcome="OK") == 1
    assert grown("requests_total", op="", model="", lane="standard", outcome="NO_WORKER") == 2
    assert grown("requests_accepted_total") == 10
    assert after[key("requests_outstanding")] == 0
    assert grown("chunks_total", **echo) == 4
    assert grown("e2e_request_latency_seconds_count", **echo) == 9
    assert grown("e2e_request_latency_seconds_bucket", **echo, le="+Inf") == 9
    assert grown("time_to_first_token_seconds_count", **echo) == 1
    assert grown("broker_events_total", event="malformed_client") == 1
    assert grown("worker_served_total", worker="w") == 9
    assert after[key("workers", state="ready")] == 1
    assert after[key("workers", state="loading")] == 0
    assert after[key("worker_slots", worker="w")] == 32
    assert after[rss] > 10_000_000
    assert 0 < after[key("e2e_request_latency_seconds_sum", **echo)] < 60
    assert not [labels for _, labels in after if ("op", "no-such-op") in labels or ("op", "late") in labels]


def test_an_alert_on_the_growth_of_an_event_sees_the_first_one_too(port: int) -> None:
    rules = (Path(__file__).parents[2] / "deploy/alerts.yml").read_text()
    events = re.findall(r'increase\(mlx_mesh_broker_events_total\{event="(\w+)"', rules)
    assert "poisoned" in events
    assert [name for name in events if key("broker_events_total", event=name) not in samples(port)] == []


def test_what_the_guard_reports_is_shown_while_it_does(mesh: LiveMesh, bystander: Mesh, port: int) -> None:
    before = samples(port)
    assert 0.0 == before[key("guard_up")]
    assert not [name for name, _ in before if name.startswith(("mlx_mesh_memory", "mlx_mesh_guard_rung"))]
    told = CALM._replace(
        pressure=0.875,
        rung="pause",
        limits=[Limit("ram", 1, 2), Limit("ram", 7, 8), Limit("cgroup", 3, 4)],
        signals={"psi_some_avg10": 1.5},
        workers=[Footprint("w", 300, 200, -2.5, False), Footprint('"x"', 30, 20, 0.0, True)],
        recycles=[Recycle("x", "drain", "", 0.0)],
        troubled=[fatal("text-0"), fatal("text-0")],
        counters={"trims": 3, "recycles leak": 1},
        errors={"psi": 2},
    )
    with dealer(mesh, "control") as guard:
        for report, pause in ((told, "bulk"), (told, "standard")):
            guard.say(messages.Command(1, "guard"), *pack_body({"report": report.as_map(), "pause": pause}))
            guard.answer(1)
            shown = samples(port)
            assert 1.0 == shown[key("admission_paused", lane="bulk")]
            assert float(pause == "standard") == shown[key("admission_paused", lane="standard")]
        guard.say(messages.Command(1, "guard"), *pack_body({"report": CALM.as_map(), "pause": ""}))
        guard.answer(1)
    expected = {
        key("guard_up"): 1.0,
        key("memory_pressure_ratio"): 0.875,
        key("memory_used_bytes", source="ram"): 7.0,
        key("memory_limit_bytes", source="cgroup"): 4.0,
        key("os_memory_signal", signal="psi_some_avg10"): 1.5,
        key("guard_rung"): 2.0,
        key("worker_footprint_bytes", worker="w"): 300.0,
        key("worker_growth_bytes_per_second", worker="w"): -2.5,
        key("worker_leaking", worker="w"): 0.0,
        key("worker_leaking", worker='"x"'): 1.0,
        key("recycles_in_progress"): 1.0,
        key("processes_given_up", process="text-0"): 1.0,
        key("guard_actions_total", action="recycles leak"): 1.0,
        key("guard_source_errors_total", source="psi"): 2.0,
    }
    assert expected == {name: shown[name] for name in expected}
    assert 0.0 == samples(port)[key("admission_paused", lane="bulk")]


def test_buckets_only_grow_with_their_bound(bystander: Mesh, port: int) -> None:
    bystander.call("echo", 1)
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in samples(port).items()
        if name == "mlx_mesh_queue_time_seconds_bucket" and ("op", "echo") in labels
    }
    assert 0.25 in buckets
    values = [buckets[bound] for bound in sorted(buckets)]
    assert values == sorted(values)


def test_openmetrics_is_given_to_who_asks_for_it(bystander: Mesh, port: int) -> None:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.read().endswith(b"# EOF\n")


def test_other_paths_and_methods_are_refused(port: int) -> None:
    assert get(port, "/") == (404, "there are /metrics, /healthz and /readyz\n")
    assert get(port, "/metrics/../../etc/passwd")[0] == 404
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="501") as caught:
        urllib.request.urlopen(asked, timeout=10)
    caught.value.close()


@pytest.mark.slow
def test_garbage_and_slow_clients_hold_up_neither_the_broker_nor_the_next_scrape(
    mesh: LiveMesh, bystander: Mesh, port: int
) -> None:
    log = mesh.log("broker")
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
    try:
        begun = [b"GET /met", b"", b"\x16\x03\x01\x02\x00\x01\xfc" * 50, b"GET /metrics HTTP/1.1\r\nX: "]
        for number, each in enumerate(slow):
            each.sendall(begun[number % 4])
        for junk in (b"\r\n" * 10, b"\xff" * 70_000, b"GET " + b"x" * 70_000 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as one, contextlib.suppress(OSError):
                one.sendall(junk)  # It may be answered, and the connection closed, before all of it is taken.
        for _ in range(20):  # reset instead of closed, with the answer unread
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            one.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()
        assert bystander.call("echo", 1, timeout=SOON_S) == 1
        assert get(port, "/healthz", SOON_S) == (200, "ok\n")
    finally:
        for each in slow:
            each.close()
    assert "Traceback" not in mesh.log("broker")[len(log) :]


@pytest.mark.slow
def test_more_connections_than_are_served_at_once_are_closed_and_serving_goes_on(
    bystander: Mesh, broker: Process, port: int
) -> None:
    process = psutil.Process(broker.pid)
    many, threads = [], [process.num_threads()]

    def closed() -> bool:
        threads.append(process.num_threads())
        return bool(select.select(many[-1:], [], [], 0)[0])

    try:
        for _ in range(150):
            many.append(socket.create_connection(("127.0.0.1", port)))
            threads.append(process.num_threads())
        until(closed, "the last one to be closed")
        assert b"" == many[-1].recv(1)
        assert max(threads) < 80
        assert bystander.call("echo", 1, timeout=SOON_S) == 1
    finally:
        for each in many:
            each.close()
    until(lambda: _healthy(port), "a probe to be answered")


def _healthy(port: int) -> bool:
    try:
        return get(port, "/healthz", SOON_S)[0] == 200
    except OSError:
        return False


def test_connections_are_given_back(broker: Process, port: int) -> None:
    process = psutil.Process(broker.pid)
    get(port, "/metrics")
    until(lambda: process.num_threads() <= 6, "the threads of earlier connections to end")
    before = process.num_fds()
    for _ in range(50):
        get(port, "/metrics")
    until(lambda: process.num_fds() <= before + 1, "descriptors to be given back")


@pytest.fixture
def own() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        yield mesh


def test_readyz_says_503_until_a_worker_is_ready_and_200_while_one_is(own: LiveMesh) -> None:
    own.broker("--metrics-port", "0", *PATIENT)
    port = port_of(own)
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (503, "no worker is ready (0 connected)\n")
    with dealer(own, "backend") as worker:
        worker.say(messages.Loading(1, 0, b"i" * 16, "w", "h", "nowhere", 1, 0, ["x"], [], [], 1, 0, {}))
        worker.take(messages.Welcome)
        assert get(port, "/readyz") == (503, "no worker is ready (1 connected)\n")
        worker.ready(ops=["x"], name="v")
        assert get(port, "/readyz")[0] == 200
        worker.say(messages.Quiet(True))
        worker.settle()
        assert get(port, "/readyz")[0] == 503
        assert get(port, "/healthz")[0] == 200


def test_the_port_can_be_chosen_and_one_that_is_taken_costs_only_the_metrics(own: LiveMesh) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        broker = own.broker("--metrics-port", str(port))
        until(lambda: "metrics_off" in own.log("broker"))
        with Mesh(own.endpoint) as client:
            assert client.status()["workers"] == []
        own.stop([broker])
    own.broker("--metrics-port", str(port))
    until(lambda: f":{port}/metrics" in own.log("broker"))
    assert get(port, "/healthz")[0] == 200


def test_a_mesh_with_a_run_directory_of_its_own_has_no_port_by_default(own: LiveMesh) -> None:
    own.broker()
    until(lambda: "broker_ready" in own.log("broker"))
    assert "metrics" not in own.log("broker")


@pytest.mark.slow
def test_a_broker_whose_loop_does_not_answer_is_unhealthy(own: LiveMesh) -> None:
    broker = own.broker("--metrics-port", "0")
    port = port_of(own)
    broker.send_signal(signal.SIGSTOP)
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        get(port, "/healthz", 0.5)
    broker.send_signal(signal.SIGCONT)
    assert get(port, "/healthz")[0] == 200
