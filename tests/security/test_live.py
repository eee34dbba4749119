"""What holders of keys see: being revoked in the middle of things, and being refused, soon and with a reason."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from mlx_mesh import (
    AsyncMesh,
    DeadlineExceededError,
    InvalidRequestError,
    Mesh,
    OverloadedError,
    UnauthorizedError,
    _link,
)
from mlx_mesh.cli.main import main
from mlx_mesh_wire import control
from mlx_mesh_wire.handshake import HandshakeWatch
from mlx_mesh_wire.wrapping import wrap
from tests.live import WAITS_S, free_ports, until
from tests.security.keyring import KeyedMesh, keyed_mesh, keys

ENGINE = """
import os, time
from mlx_mesh_worker.engine import BatchEngine

class Slow(BatchEngine):
    ops = ("slow",)
    slots = 1
    def load(self): pass
    def run(self, batch):
        while isinstance(batch[0], str) and not os.path.exists(batch[0]):
            time.sleep(0.005)
        if not isinstance(batch[0], str):
            time.sleep(batch[0])
        return batch
"""


@pytest.fixture(scope="module")
def keyed() -> Iterator[KeyedMesh]:
    """A mesh with a worker in its run directory, whose engine takes as long as it is told, or until there is a file."""
    with keyed_mesh() as made:
        made.mesh.engine(ENGINE)
        made.mesh.worker("mine:Slow", "local")
        with Mesh(made.mesh.endpoint) as client:
            client.ready(["slow"])
        yield made


def admitted(endpoint: str, path: Path) -> Mesh:
    """Return a client that was let in; the broker takes up a new key within half a second."""

    def attempt() -> Mesh | None:
        client = Mesh(endpoint, keys=path)
        try:
            client.status(timeout=30)
        except UnauthorizedError:
            client.close()
            return None
        return client

    return until(attempt, "the new key to be served")  # type: ignore[no-any-return]


def busy(client: Mesh) -> bool:
    """Return whether the local worker holds a job."""
    return any(each["in_flight"] for each in client.status()["workers"] if each["name"] == "local")


def in_background(call: Callable[[], Any]) -> Callable[[], Any]:
    """Start a call in a thread; return what waits for its result or exception."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001  it is what is looked for
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait() -> Any:
        thread.join(60)
        return outcome[0]

    return wait


def test_revoking_ends_what_is_outstanding_and_all_that_follows(keyed: KeyedMesh, tmp_path: Path) -> None:
    keys(keyed.dir, "add-client", "carl")
    path = Path(shutil.copy(keyed.path("carl"), tmp_path))
    with admitted(keyed.endpoints["client"], path) as client, Mesh(keyed.mesh.endpoint) as bystander:
        wait = in_background(lambda: client.call("slow", "carl is gone", timeout=30))
        try:
            until(lambda: busy(bystander), "the job to run")
            keys(keyed.dir, "revoke", "carl")
            began = time.monotonic()
            assert isinstance(wait(), UnauthorizedError)
            assert time.monotonic() - began < 15.0
        finally:
            (keyed.mesh.dir / "carl is gone").touch()
        for _ in range(3):
            with pytest.raises(UnauthorizedError):
                client.call("slow", 0.0, timeout=20)
        assert 0.0 == bystander.call("slow", 0.0)
    with Mesh(keyed.endpoints["client"], keys=path) as again:
        assert "refuses the key of client 'carl'" in soon(again).message


def test_a_revoked_worker_gets_nothing_more_and_its_work_runs_elsewhere(keyed: KeyedMesh) -> None:
    keys(keyed.dir, "add-worker", "leaver")
    path = str(keyed.path("leaver"))
    keyed.mesh.worker("mine:Slow", "leaver", "--broker", keyed.endpoints["worker"], "--keys", path)
    with Mesh(keyed.mesh.endpoint) as client:

        def worker(name: str) -> dict[str, Any]:
            found = [each for each in client.status()["workers"] if each["name"] == name]
            return found[0] if found else {"in_flight": 0}

        until(lambda: worker("leaver").get("state") == "ready", "the worker with a key to be ready")
        goes = "leaver is gone"
        waits = [in_background(lambda: client.call("slow", goes, timeout=60, cache=False)) for _ in range(2)]
        try:
            until(lambda: worker("leaver")["in_flight"], "work in both")
            keys(keyed.dir, "revoke", "leaver")
            until(lambda: "state" not in worker("leaver"), "the worker to be gone")
        finally:
            (keyed.mesh.dir / goes).touch()
        assert [goes, goes] == [wait() for wait in waits]
        assert 0.0 == client.call("slow", 0.0)


def test_a_worker_that_is_refused_says_so_and_serves_once_its_key_is_authorised(keyed: KeyedMesh) -> None:
    keys(keyed.dir, "add-worker", "early")
    entry = keyed.entry("early")
    waiting = entry.rename(entry.with_suffix(".aside"))
    path = str(keyed.path("early"))
    keyed.mesh.worker("echo", "early", "--broker", keyed.endpoints["worker"], "--keys", path)
    until(lambda: "key_refused" in keyed.mesh.log("early"), "the worker to say why")
    assert "refuses the key of worker 'early'" in keyed.mesh.log("early")
    waiting.rename(entry)
    with Mesh(keyed.mesh.endpoint) as client:
        client.ready(["echo"])
        assert 1 == client.call("echo", 1)


def test_quotas_of_an_entry_hold_and_change_without_a_restart(keyed: KeyedMesh) -> None:
    keys(keyed.dir, "add-client", "batch", "--lanes", "bulk", "--outstanding", "1")
    client, second = (admitted(keyed.endpoints["client"], keyed.path("batch")) for _ in range(2))
    with client, second, Mesh(keyed.mesh.endpoint) as local:
        assert 0.0 == client.call("slow", 0.0, lane="bulk")
        with pytest.raises(UnauthorizedError, match="bulk"):
            client.call("slow", 0.0)
        goes = "second is refused"
        first = in_background(lambda: client.call("slow", goes, lane="bulk", cache=False))
        try:
            until(lambda: busy(local), "the first to run")
            for timeout in WAITS_S:
                with pytest.raises((OverloadedError, DeadlineExceededError)) as refused:
                    second.call("slow", 0.1, lane="bulk", cache=False, timeout=timeout)
                if isinstance(refused.value, OverloadedError):  # Otherwise there was no answer in time.
                    break
            assert isinstance(refused.value, OverloadedError)
        finally:
            (keyed.mesh.dir / goes).touch()
        assert goes == first()
        entry = json.loads(keyed.entry("batch").read_text())
        whole = keyed.entry("batch").with_suffix(".aside")
        whole.write_text(json.dumps({**entry, "lanes": []}))
        whole.chmod(0o600)
        whole.rename(keyed.entry("batch"))  # At once: half of it would authorise nobody.

        def widened() -> bool:
            try:
                return bool(client.call("slow", 0.001))
            except UnauthorizedError:
                return False

        until(widened, "the other lanes to be allowed")


def soon(client: Mesh) -> UnauthorizedError:
    """Return the error of a call that must not wait for its deadline."""
    began = time.monotonic()
    with pytest.raises(UnauthorizedError) as told:
        client.call("slow", 0.0, timeout=60)
    assert time.monotonic() - began < 40.0
    return told.value


def test_a_client_without_keys_at_an_endpoint_that_needs_them_is_told_soon(keyed: KeyedMesh) -> None:
    with Mesh(keyed.endpoints["client"]) as client:
        assert "give some by MLX_MESH_KEYS" in soon(client).message
        assert "give some by MLX_MESH_KEYS" in soon(client).message  # and again, by another attempt


def test_a_client_with_the_key_of_another_broker_is_told_soon(keyed: KeyedMesh, tmp_path: Path) -> None:
    keys(tmp_path / "keys", "init")
    keys(tmp_path / "keys", "add-client", "alice")
    with Mesh(keyed.endpoints["client"], keys=tmp_path / "keys" / "alice.key") as client:
        assert "of a broker that these keys were not made for" in soon(client).message


def test_a_client_with_keys_at_an_endpoint_without_is_told_soon(keyed: KeyedMesh) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    bare = context.socket(zmq.ROUTER)
    port = bare.bind_to_random_port("tcp://127.0.0.1")
    try:
        with Mesh(f"tcp://127.0.0.1:{port}", keys=keyed.path("alice")) as client:
            assert "it may be an endpoint without keys" in soon(client).message
    finally:
        context.destroy(0)


def test_a_client_at_the_door_of_workers_is_told_soon(keyed: KeyedMesh) -> None:
    with Mesh(keyed.endpoints["worker"], keys=keyed.path("alice")) as client:
        assert "is not for this endpoint" in soon(client).message


def test_asyncio_clients_have_keys_and_reasons_too(keyed: KeyedMesh) -> None:
    async def both() -> tuple[Any, BaseException]:
        async with AsyncMesh(keyed.endpoints["client"], keys=keyed.path("alice")) as client:
            value = await client.call("slow", 0.0)
        async with AsyncMesh(keyed.endpoints["worker"], keys=keyed.path("alice")) as client:
            failed = await asyncio.gather(client.call("slow", 0.0, timeout=60), return_exceptions=True)
        return value, failed[0]

    value, failed = asyncio.run(asyncio.wait_for(both(), 50))
    assert 0.0 == value
    assert isinstance(failed, UnauthorizedError)


def test_a_refusal_is_told_however_soon_it_comes(keyed: KeyedMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(HandshakeWatch):
        def __init__(self, *args: Any, **more: Any) -> None:
            time.sleep(0.2)  # A refusal takes a few milliseconds, so one that is not watched for yet is missed.
            super().__init__(*args, **more)

    monkeypatch.setattr(_link, "HandshakeWatch", Slow)
    with Mesh(keyed.endpoints["client"], keys=keyed.path("alice")) as client:
        assert 0.0 == client.call("slow", 0.0)
    with Mesh(keyed.endpoints["worker"], keys=keyed.path("alice")) as client:
        assert "refuses the key of client 'alice'" in soon(client).message

    def slowly(frames: Any) -> bytes:
        time.sleep(0.2)
        return wrap(frames)

    monkeypatch.setattr(control, "HandshakeWatch", Slow)
    monkeypatch.setattr(control, "wrap", slowly)  # What is sent after a refusal goes nowhere, and must not wait.
    monkeypatch.setenv("MLX_MESH_CONTROL_KEYS", str(keyed.path("olga")))
    with pytest.raises(UnauthorizedError, match="refuses the key of operator 'olga'"):
        control.command("status", {}, endpoint=keyed.endpoints["client"])


def test_nothing_listening_is_still_told_as_that(keyed: KeyedMesh) -> None:
    (port,) = free_ports(1)
    with Mesh(f"tcp://127.0.0.1:{port}", keys=keyed.path("alice")) as client, pytest.raises(TimeoutError):
        client.call("slow", 0.0, timeout=0.3)


def test_files_that_are_no_keys_of_a_client_are_refused_before_anything_is_sent(keyed: KeyedMesh) -> None:
    for path, why in (
        (keyed.path("bob"), "is the key of a worker; make one by: mlx-mesh keys add-client NAME"),
        (keyed.dir / "nothing.key", "cannot be read"),
    ):
        with pytest.raises(InvalidRequestError, match=why):
            Mesh(keyed.endpoints["client"], keys=path)
    with pytest.raises(InvalidRequestError, match="keys are for tcp endpoints"):
        Mesh(keyed.mesh.endpoint, keys=keyed.path("alice"))


def test_the_environment_names_the_keys_of_clients_and_ipc_does_without(
    keyed: KeyedMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MESH_KEYS", str(keyed.path("alice")))
    for endpoint in (keyed.endpoints["client"], keyed.mesh.endpoint):
        with Mesh(endpoint) as client:
            assert client.status()["workers"]


def test_operators_drain_by_tcp_with_their_key(
    keyed: KeyedMesh, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_MESH_CONTROL", keyed.endpoints["operator"])
    assert 1 == main(["drain", "local"])
    assert "MLX_MESH_CONTROL_KEYS is not set" in capsys.readouterr().err
    monkeypatch.setenv("MLX_MESH_CONTROL_KEYS", str(keyed.path("alice")))
    assert 1 == main(["drain", "local"])
    assert "is the key of a client; see: mlx-mesh keys add-operator" in capsys.readouterr().err
    monkeypatch.setenv("MLX_MESH_CONTROL_KEYS", str(keyed.path("olga")))
    assert 0 == main(["drain", "local"])
    assert 0 == main(["drain", "local", "--undo"])
    monkeypatch.setenv("MLX_MESH_CONTROL", keyed.endpoints["client"])
    assert 1 == main(["drain", "local"])
    assert "refuses the key of operator 'olga'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--keys", "{bob}"], "keys: they are for a broker at a tcp endpoint"),
        (["--keys", "{alice}", "--broker", "tcp://127.0.0.1:1"], "is the key of a client"),
        (["--keys", "/nowhere", "--broker", "tcp://127.0.0.1:1"], "cannot be read"),
    ],
)
def test_a_worker_with_keys_that_are_none_for_it_does_not_start(
    keyed: KeyedMesh, args: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_mesh_worker.main import main as worker

    monkeypatch.setenv("MLX_MESH_RUN_DIR", str(keyed.mesh.dir))
    given = [each.format(alice=keyed.path("alice"), bob=keyed.path("bob")) for each in args]
    assert 2 == worker(["--engine", "echo", *given])
    assert why in capsys.readouterr().err
