"""How CURVE fails open, and that a broker's sockets do not, on the installed libzmq; without a broker's process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mlx_mesh_broker.core.quotas import STRANGER
from mlx_mesh_broker.doors import LOOK_ANEW_S, Doors
from mlx_mesh_broker.settings import BrokerSettings
from mlx_mesh_broker.sockets import KeyedSockets, bind_keyed
from mlx_mesh_broker.zap import judge
from mlx_mesh_wire.keys import Entry, PrivateKeys, entries_dir, private_path, read_private
from mlx_mesh_wire.transport import new_pair
from mlx_mesh_wire.wrapping import unwrap
from tests.live import free_ports, until
from tests.security.keyring import GREETING, ROLES, Knock, Raw, keys, knock, with_key

LET_IN = zmq.EVENT_HANDSHAKE_SUCCEEDED


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "keys"
    keys(path, "init")
    for role, name in zip(ROLES, ("alice", "bob", "olga"), strict=True):
        keys(path, f"add-{role}", name)
    return path


@pytest.fixture
def directory(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "keys"))


@pytest.fixture
def sockets(directory: Path) -> Iterator[KeyedSockets]:
    names = ("listen", "listen_workers", "listen_control")
    ports = {name: (f"tcp://127.0.0.1:{port}",) for name, port in zip(names, free_ports(3), strict=True)}
    context: zmq.Context[Raw] = zmq.Context()
    settings = BrokerSettings(keys="always", **ports)  # type: ignore[arg-type]
    made = bind_keyed(context, settings, read_private(private_path(directory, "broker")))
    try:
        yield made
    finally:
        made.close()
        context.destroy(0)


def endpoint(sockets: KeyedSockets, role: str) -> str:
    return sockets.by_role[role].get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()


def served(doors: Doors, peer: Knock, now: float = 0.0) -> int:
    """Answer who may connect until a handshake has ended, and return how; one that took too long is tried again."""

    def ended() -> int:
        doors.admit(now)
        event = peer.event() if peer._monitor.poll(1) else 0
        return 0 if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL else event

    return int(until(ended, "the end of a handshake"))


@pytest.mark.parametrize("role", ROLES)
def test_each_door_has_all_three_of_what_keeps_it_closed(sockets: KeyedSockets, role: str) -> None:
    door = sockets.by_role[role]
    assert (1, role.encode(), 1) == (
        door.get(zmq.CURVE_SERVER),
        door.get(zmq.ZAP_DOMAIN).rstrip(b"\0"),
        door.get(zmq.ZAP_ENFORCE_DOMAIN),
    )


def test_while_a_handler_answers_a_key_is_let_in(sockets: KeyedSockets, directory: Path) -> None:
    doors = Doors(sockets, directory)
    held = read_private(private_path(directory, "alice"))
    with knock(endpoint(sockets, "client"), with_key(held)) as peer:
        assert LET_IN == served(doors, peer)
    assert {("client", "accepted"): 1} == doors.counts


def test_a_key_that_was_just_made_is_let_in_at_once(sockets: KeyedSockets, directory: Path) -> None:
    doors = Doors(sockets, directory)
    assert [] == doors.revoked(0.0)
    keys(directory, "add-client", "carol")
    (entries_dir(directory) / "alice.json").unlink()
    with knock(endpoint(sockets, "client"), with_key(read_private(private_path(directory, "carol")))) as peer:
        assert LET_IN == served(doors, peer)
    assert {("client", "accepted"): 1} == doors.counts
    assert ["alice"] == doors.revoked(0.0), "what else was seen then is not forgotten"
    assert [] == doors.revoked(0.0)


def test_strangers_have_the_directory_looked_at_no_more_than_so_often(sockets: KeyedSockets, directory: Path) -> None:
    doors = Doors(sockets, directory)
    stranger = PrivateKeys("client", "stranger", *new_pair(), read_private(private_path(directory, "alice")).server)
    with knock(endpoint(sockets, "client"), with_key(stranger)) as peer:
        assert zmq.EVENT_HANDSHAKE_FAILED_AUTH == served(doors, peer)
    keys(directory, "add-client", "carol")
    with knock(endpoint(sockets, "client"), with_key(read_private(private_path(directory, "carol")))) as peer:
        assert zmq.EVENT_HANDSHAKE_FAILED_AUTH == served(doors, peer)
    with knock(endpoint(sockets, "client"), with_key(read_private(private_path(directory, "carol")))) as peer:
        assert LET_IN == served(doors, peer, LOOK_ANEW_S)


@pytest.mark.parametrize("role", ROLES)
def test_without_its_handler_a_door_lets_nobody_in(sockets: KeyedSockets, directory: Path, role: str) -> None:
    sockets.zap.close(0)
    name = dict(zip(ROLES, ("alice", "bob", "olga"), strict=True))[role]
    with knock(endpoint(sockets, role), with_key(read_private(private_path(directory, name)))) as peer:
        peer.say(GREETING[role])
        assert peer.event() != LET_IN
        assert not sockets.by_role[role].poll(50)


def test_while_its_handler_is_silent_a_door_lets_nobody_in(sockets: KeyedSockets, directory: Path) -> None:
    sockets.by_role["client"].set(zmq.HANDSHAKE_IVL, 100)
    with knock(endpoint(sockets, "client"), with_key(read_private(private_path(directory, "alice")))) as peer:
        peer.say(GREETING["client"])
        assert sockets.zap.poll(30_000), "it was not even asked"
        assert not sockets.by_role["client"].poll(200)


@pytest.mark.parametrize(
    ("domain", "handler", "enforced", "let_in"),
    [
        (b"client", False, 0, True),
        (b"", False, 0, True),
        (b"", False, 1, True),
        (b"", True, 1, True),
        (b"client", False, 1, False),
    ],
)
def test_libzmq_lets_strangers_in_unless_all_three_stand_together(
    domain: bytes, handler: bool, enforced: int, let_in: bool
) -> None:
    """What the doors are built against; the handler never answers, so that nobody is let in by its word."""
    context: zmq.Context[Raw] = zmq.Context()
    (public, secret), stranger = new_pair(), new_pair()
    try:
        server, zap = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        server.set(zmq.CURVE_SERVER, 1)
        server.set(zmq.CURVE_SECRETKEY, secret.encode())
        server.set(zmq.ZAP_ENFORCE_DOMAIN, enforced)
        if domain:
            server.set(zmq.ZAP_DOMAIN, domain)
        if handler:
            zap.bind("inproc://zeromq.zap.01")
        port = server.bind_to_random_port("tcp://127.0.0.1")
        held = PrivateKeys("client", "stranger", *stranger, public)
        with knock(f"tcp://127.0.0.1:{port}", with_key(held)) as peer:
            peer.say(GREETING["client"])
            assert let_in == (LET_IN == peer.event())
            assert let_in == bool(server.poll(30_000 if let_in else 50))
    finally:
        context.destroy(0)


def test_who_takes_a_routing_id_of_another_key_does_not_take_its_route(sockets: KeyedSockets, directory: Path) -> None:
    keys(directory, "add-client", "mallory")
    doors = Doors(sockets, directory)
    door = doors.by_role["client"]

    def route_of(name: str) -> bytes:
        """Say something as a peer called ``same``; nothing comes while libzmq still takes another for it."""
        held = read_private(private_path(directory, name))
        with knock(endpoint(sockets, "client"), with_key(held), routing_id=b"same") as peer:
            assert LET_IN == served(doors, peer)
            peer.say(GREETING["client"])
            sockets.by_role["client"].poll(100)
            frames = door.receive()
        return frames[0] if frames else b""

    routes = {}
    for name in ("alice", "mallory"):
        routes[name] = until(lambda name=name: route_of(name), "a message of this peer")
        assert name == door.holder.name
    assert routes["alice"] != routes["mallory"]
    assert [b"same", b"same"] == [route[-4:] for route in routes.values()]


def test_messages_on_a_connection_of_a_revoked_key_come_from_a_stranger(sockets: KeyedSockets, directory: Path) -> None:
    doors = Doors(sockets, directory)
    held = read_private(private_path(directory, "alice"))
    with knock(endpoint(sockets, "client"), with_key(held)) as peer:
        assert LET_IN == served(doors, peer)
        (entries_dir(directory) / "alice.json").unlink()
        assert ["alice"] == doors.revoked(10.0)
        peer.say(GREETING["client"])
        assert sockets.by_role["client"].poll(30_000)
        assert doors.by_role["client"].receive() is not None
        assert STRANGER is doors.by_role["client"].holder


def test_what_is_sent_by_a_route_goes_to_the_socket_it_is_of(sockets: KeyedSockets, directory: Path) -> None:
    doors = Doors(sockets, directory)
    plain: list[object] = []
    send = doors.beside("client", plain.append)
    with knock(
        endpoint(sockets, "client"), with_key(read_private(private_path(directory, "alice"))), routing_id=b"mine"
    ) as peer:
        assert LET_IN == served(doors, peer)
        peer.say(GREETING["client"])
        assert sockets.by_role["client"].poll(30_000)
        frames = doors.by_role["client"].receive()
        assert frames is not None
        send([frames[0], b"for alice"])
        send([b"mine", b"for somebody local"])
        assert peer.raw.poll(30_000)
        assert [b"for alice"] == unwrap(*peer.raw.recv_multipart())
    assert [[b"mine", b"for somebody local"]] == plain


KNOWN = Entry("client", "alice", "0" * 40)
GOOD = [b"route", b"", b"1.0", b"7", b"client", b"10.0.0.1", b"", b"CURVE", bytes(32)]
BAD = {
    "another version": {2: b"2.0"},
    "a wildcard domain": {4: b"*"},
    "no domain": {4: b""},
    "the domain of another role": {4: b"worker"},
    "a domain without a door": {4: b"events"},
    "NULL": {7: b"NULL"},
    "PLAIN": {7: b"PLAIN"},
    "a short key": {8: bytes(31)},
    "another key": {8: bytes(31) + b"\1"},
}


def test_a_question_for_a_known_key_is_answered_yes_with_the_key_as_user() -> None:
    verdict = judge(GOOD, {KNOWN.public: KNOWN}.get, ROLES)
    assert verdict is not None
    assert [b"route", b"", b"1.0", b"7", b"200", b"accepted", b"0" * 40, b""] == verdict.reply


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_any_other_question_is_answered_no(change: dict[int, bytes]) -> None:
    frames = [change.get(index, frame) for index, frame in enumerate(GOOD)]
    verdict = judge(frames, {KNOWN.public: KNOWN}.get, ROLES)
    assert verdict is not None
    assert verdict.reply[4] in (b"400", b"500")
    assert b"" == verdict.reply[6]


@pytest.mark.parametrize("frames", [GOOD[:8], [*GOOD, b"more"], GOOD[:4]], ids=["short", "long", "only an id"])
def test_a_question_of_too_few_or_many_frames_is_answered_by_a_failure(frames: list[bytes]) -> None:
    verdict = judge(frames, {KNOWN.public: KNOWN}.get, ROLES)
    assert verdict is not None
    assert (b"500", "malformed") == (verdict.reply[4], verdict.outcome)


@pytest.mark.parametrize("frames", [[], GOOD[:3], [b"route", b"no delimiter", *GOOD[2:]]])
def test_what_cannot_be_answered_is_not(frames: list[bytes]) -> None:
    assert judge(frames, {KNOWN.public: KNOWN}.get, ROLES) is None
