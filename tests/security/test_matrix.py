"""Who is let in, against the installed libzmq and a real broker: nobody but a key of the right role."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from mlx_mesh import Mesh
from mlx_mesh_broker.main import main as broker
from mlx_mesh_wire import messages
from mlx_mesh_wire.transport import new_pair
from tests.live import free_ports, until
from tests.security.keyring import GREETING, ROLES, Arm, KeyedMesh, keys, knock, plain, with_key, without

HOLDERS = dict(zip(ROLES, ("alice", "bob", "olga"), strict=True))


def refused(keyed: KeyedMesh, door: str, arm: Arm, *, judged: bool = False) -> int:
    """Return the event by which a peer was refused; nothing it says is answered.

    With ``judged``, that of a handshake which somebody has judged: others may have taken too long before.
    """
    with knock(keyed.endpoints[door], arm) as peer:
        peer.say(GREETING[door])
        event = peer.verdict() if judged else peer.event()
        assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert peer.hear(50) is None
    return event


@pytest.mark.parametrize("role", ROLES)
def test_a_key_is_let_in_at_the_door_of_its_role(keyed: KeyedMesh, role: str) -> None:
    with knock(keyed.endpoints[role], with_key(keyed.key(HOLDERS[role]))) as peer:
        peer.say(GREETING[role])
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED == peer.verdict()
        assert isinstance(peer.hear(), messages.Final if role == "operator" else messages.Welcome)


@pytest.mark.parametrize(("role", "door"), [(role, door) for role in ROLES for door in ROLES if role != door])
def test_a_key_is_refused_at_every_other_door(keyed: KeyedMesh, role: str, door: str) -> None:
    assert zmq.EVENT_HANDSHAKE_FAILED_AUTH == refused(keyed, door, with_key(keyed.key(HOLDERS[role])), judged=True)


def test_a_refusal_is_logged_by_name_and_counted(keyed: KeyedMesh) -> None:
    line = "auth_refused name=bob role=client reason=wrong_role address=127.0.0.1"

    def logged() -> bool:  # Of many refusals in a second not all are.
        refused(keyed, "client", with_key(keyed.key("bob")), judged=True)
        return line in keyed.mesh.log("broker")

    until(logged, "a line of it")
    port = keyed.mesh.log("broker").partition("metrics_on url=http://127.0.0.1:")[2].partition("/")[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        figures = answer.read().decode()
    assert re.search(r'mlx_mesh_auth_total{outcome="wrong_role",role="client"} [1-9]', figures)


@pytest.mark.parametrize("door", ROLES)
def test_a_key_that_nobody_authorised_is_refused(keyed: KeyedMesh, door: str) -> None:
    public, secret = new_pair()
    stranger = replace(keyed.key("alice"), public=public, secret=secret)
    assert zmq.EVENT_HANDSHAKE_FAILED_AUTH == refused(keyed, door, with_key(stranger), judged=True)


@pytest.mark.parametrize("door", ROLES)
def test_the_brokers_own_key_is_no_ticket(keyed: KeyedMesh, door: str) -> None:
    assert zmq.EVENT_HANDSHAKE_FAILED_AUTH == refused(keyed, door, with_key(keyed.key("broker")), judged=True)


@pytest.mark.parametrize("door", ROLES)
def test_a_key_whose_secret_is_another_is_refused(keyed: KeyedMesh, door: str) -> None:
    holder = HOLDERS[door]
    with knock(keyed.endpoints[door], with_key(replace(keyed.key(holder), secret=new_pair()[1]))) as peer:
        peer.say(GREETING[door])
        assert peer.event() != zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert peer.hear(50) is None


@pytest.mark.parametrize("door", ROLES)
@pytest.mark.parametrize("arm", [without, plain], ids=["null", "plain"])
def test_a_peer_without_a_key_is_refused(keyed: KeyedMesh, door: str, arm: Arm) -> None:
    refused(keyed, door, arm)


@pytest.mark.parametrize("door", ROLES)
def test_a_client_of_another_broker_is_refused_and_learns_nothing(keyed: KeyedMesh, door: str) -> None:
    other = new_pair()[0]
    assert zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL == refused(
        keyed, door, with_key(keyed.key(HOLDERS[door]), server=other)
    )


def test_a_broker_of_another_key_is_no_broker(keyed: KeyedMesh) -> None:
    """A client sends nothing to somebody who took the address of its broker."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    impostor = context.socket(zmq.ROUTER)
    impostor.set(zmq.LINGER, 0)
    impostor.set(zmq.CURVE_SERVER, 1)
    impostor.set(zmq.CURVE_SECRETKEY, new_pair()[1].encode())
    port = impostor.bind_to_random_port("tcp://127.0.0.1")
    try:
        with knock(f"tcp://127.0.0.1:{port}", with_key(keyed.key("alice"))) as peer:
            peer.say(GREETING["client"])
            assert peer.event() != zmq.EVENT_HANDSHAKE_SUCCEEDED
            assert not impostor.poll(50)
    finally:
        context.destroy(0)


def test_handshakes_that_do_not_end_are_ended(keyed: KeyedMesh) -> None:
    began = time.monotonic()
    ports = [int(endpoint.rpartition(":")[2]) for endpoint in keyed.endpoints.values()]
    silent = [socket.create_connection(("127.0.0.1", port), 30) for port in ports]
    half = socket.create_connection(("127.0.0.1", ports[0]), 30)
    half.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(48))
    for each in (*silent, half):
        while each.recv(4096):
            pass
        each.close()
    assert time.monotonic() - began < 20.0  # 2 s, and what a busy machine adds; by itself, libzmq waits for 30


def test_ipc_needs_no_key_and_serves_beside(keyed: KeyedMesh) -> None:
    keyed.mesh.worker("echo", "local")
    with Mesh(keyed.mesh.endpoint) as local, Mesh(keyed.endpoints["client"], keys=keyed.path("alice")) as remote:
        local.ready(["echo"])
        assert "here" == local.call("echo", "here")
        assert "there" == remote.call("echo", "there")


def test_a_worker_with_a_key_serves_clients_of_both_kinds(keyed: KeyedMesh) -> None:
    keyed.mesh.worker("echo", "far", "--broker", keyed.endpoints["worker"], "--keys", str(keyed.path("bob")))
    with Mesh(keyed.endpoints["client"], keys=keyed.path("alice")) as remote, Mesh(keyed.mesh.endpoint) as local:
        until(lambda: "far" in {worker["name"] for worker in local.status()["workers"]}, "the worker to join")
        assert [1, 2] == [remote.call("echo", 1), local.call("echo", 2)]


def test_by_default_loopback_needs_no_key_and_every_other_address_does(keyed: KeyedMesh) -> None:
    inner, outer = free_ports(2)
    listen = f"tcp://127.0.0.1:{inner},tcp://0.0.0.0:{outer}"
    env = {"MLX_MESH_RUN_DIR": str(keyed.mesh.dir / "second")}
    keyed.mesh.start("mlx-mesh-broker", "--listen", listen, log="second", env=env)
    until(lambda: "broker_ready" in keyed.mesh.log("second"), "the second broker")
    with Mesh(f"tcp://127.0.0.1:{inner}") as near, Mesh(f"tcp://127.0.0.1:{outer}", keys=keyed.path("alice")) as far:
        assert near.status(timeout=30)["epoch"] == far.status(timeout=30)["epoch"]
    with knock(f"tcp://127.0.0.1:{outer}", without) as peer:
        assert peer.event() != zmq.EVENT_HANDSHAKE_SUCCEEDED


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No keys, and a run directory."""
    monkeypatch.setenv("MLX_MESH_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("MLX_MESH_KEYS_DIR", str(tmp_path / "keys"))
    return tmp_path / "keys"


@pytest.mark.parametrize("setting", ["listen", "listen-workers", "listen-control"])
def test_addresses_beyond_loopback_need_keys_and_the_refusal_says_how_to_make_them(
    bare: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == broker([f"--{setting}", "tcp://0.0.0.0:5570"])
    told = capsys.readouterr().err
    assert f"{setting.replace('-', '_')}: 'tcp://0.0.0.0:5570' is not allowed without keys" in told
    assert f"none in {bare}; make them with: mlx-mesh keys init" in told


def test_operators_come_by_tcp_only_with_keys_even_on_loopback(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == broker(["--listen-control", "tcp://127.0.0.1:5572"])
    assert "without keys" in capsys.readouterr().err
    assert 2 == broker(["--listen-control", "ipc:///tmp/control"])
    assert "allowed: tcp://HOST:PORT" in capsys.readouterr().err


def test_a_broker_whose_key_others_may_read_does_not_start(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(bare, "init")
    (bare / "broker.key").chmod(0o640)
    assert 2 == broker(["--listen", "tcp://0.0.0.0:5570"])
    assert f"others may use it; run: chmod 600 {bare}/broker.key" in capsys.readouterr().err


def test_a_broker_does_not_start_with_an_old_library_or_one_without_curve(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 4))
    assert 2 == broker([])
    assert "libzmq is 4.3.4, needed is 4.3.5 or later" in capsys.readouterr().err
    monkeypatch.undo()
    keys(bare, "init")
    monkeypatch.setenv("MLX_MESH_RUN_DIR", str(bare.parent / "run"))
    monkeypatch.setenv("MLX_MESH_KEYS_DIR", str(bare))
    monkeypatch.setattr(zmq, "has", lambda _: False)
    assert 2 == broker(["--listen", "tcp://0.0.0.0:5570"])
    assert "built without CURVE" in capsys.readouterr().err


def test_no_key_is_in_any_log(keyed: KeyedMesh) -> None:
    for name in ("broker", "alice", "bob", "olga"):
        held = keyed.key(name)
        for log in keyed.mesh.dir.glob("*.log"):
            text = log.read_text(errors="replace")
            assert held.secret not in text
            assert held.public not in text
