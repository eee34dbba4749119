"""Peers that want what is another's: sessions, workers, routing ids, and service after their key was taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zmq

from mlx_mesh_wire import messages
from tests.live import until
from tests.security.keyring import GREETING, KeyedMesh, Knock, keys, knock, with_key, without

LET_IN = zmq.EVENT_HANDSHAKE_SUCCEEDED
HELLO = GREETING["client"]
READY = GREETING["worker"]
HERS = HELLO._replace(session=b"c" * 16)
PING = messages.Ping(7)


def named(keyed: KeyedMesh, role: str, name: str) -> None:
    """Make another key, and wait until the broker serves it."""
    if not keyed.entry(name).exists():
        keys(keyed.dir, f"add-{role}", name)

    def let_in() -> bool:
        with knock(keyed.endpoints[role], with_key(keyed.key(name))) as peer:
            return LET_IN == peer.event()

    until(let_in, "the new key to be served")


def hear(peer: Knock, kind: type, **fields: Any) -> Any:
    """Return the next message of a kind; others, such as a PING, may come between."""
    while True:
        message = peer.hear()
        assert message is not None, f"no {kind.__name__} came"
        if type(message) is kind:
            for name, value in fields.items():
                assert value == getattr(message, name)
            return message


@pytest.fixture
def mallory(keyed: KeyedMesh) -> Callable[[str], Any]:
    """What makes a connection of somebody who holds another key of a role."""
    for role in ("client", "worker"):
        named(keyed, role, f"mallory-{role}")
    return lambda role: knock(keyed.endpoints[role], with_key(keyed.key(f"mallory-{role}")))


def test_who_says_hello_as_the_session_of_another_key_is_refused_and_the_other_goes_on(
    keyed: KeyedMesh, mallory: Callable[[str], Any]
) -> None:
    with knock(keyed.endpoints["client"], with_key(keyed.key("alice"))) as alice, mallory("client") as thief:
        alice.say(HELLO)
        hear(alice, messages.Welcome)
        thief.say(HELLO)
        hear(thief, messages.Error, code="UNAUTHORIZED")
        thief.say(messages.Bye("in her name"))
        alice.say(PING)
        hear(alice, messages.Pong, nonce=7)


def test_who_has_no_key_takes_no_session_of_one(keyed: KeyedMesh) -> None:
    ipc = f"ipc://{keyed.mesh.dir}/run/frontend.sock"
    with knock(keyed.endpoints["client"], with_key(keyed.key("alice"))) as alice:
        alice.say(HELLO)
        hear(alice, messages.Welcome)
        with knock(keyed.mesh.endpoint or ipc, without) as local:
            local.say(HELLO)
            hear(local, messages.Error, code="UNAUTHORIZED")
        alice.say(PING)
        hear(alice, messages.Pong, nonce=7)


def test_who_says_ready_as_the_worker_of_another_key_is_refused(
    keyed: KeyedMesh, mallory: Callable[[str], Any]
) -> None:
    with knock(keyed.endpoints["worker"], with_key(keyed.key("bob"))) as bob, mallory("worker") as thief:
        bob.say(READY)
        hear(bob, messages.Welcome)
        thief.say(READY)
        hear(thief, messages.Error, code="UNAUTHORIZED")
        thief.say(messages.Bye("in its name"))
        bob.say(READY)
        hear(bob, messages.Welcome)


@pytest.mark.parametrize("routing_id", [b"x" * 255, b"\x01", b"\xff\x00\xff"], ids=["long", "short", "binary"])
def test_any_routing_id_that_a_peer_may_choose_is_served(keyed: KeyedMesh, routing_id: bytes) -> None:
    with knock(keyed.endpoints["client"], with_key(keyed.key("alice")), routing_id) as peer:
        peer.say(HELLO)
        hear(peer, messages.Welcome)


def test_of_two_peers_with_one_routing_id_the_first_keeps_it(keyed: KeyedMesh, mallory: Callable[[str], Any]) -> None:
    with knock(keyed.endpoints["client"], with_key(keyed.key("alice")), b"hers") as alice:
        alice.say(HELLO)
        hear(alice, messages.Welcome)
        held = keyed.key("mallory-client")
        with knock(keyed.endpoints["client"], with_key(held), b"hers") as thief:
            assert LET_IN == thief.verdict()
            thief.say(HELLO)
            assert thief.hear(200) is None
            alice.say(PING)
            hear(alice, messages.Pong, nonce=7)


def test_a_revoked_key_gets_nothing_more_on_its_connection_and_is_served_there_when_it_is_given_back(
    keyed: KeyedMesh,
) -> None:
    named(keyed, "client", "carol")
    entry = keyed.entry("carol")
    aside = entry.with_suffix(".aside")
    with knock(keyed.endpoints["client"], with_key(keyed.key("carol"))) as carol:
        carol.say(HERS)
        hear(carol, messages.Welcome)
        entry.rename(aside)

        def refused() -> bool:
            carol.say(messages.Status(3))
            return type(carol.hear()) is messages.Error

        until(refused, "the key to be revoked")
        for _ in range(50):
            carol.say(HERS)
        carol.say(messages.Status(9))
        while (answer := hear(carol, messages.Error, code="UNAUTHORIZED")).id != 9:
            assert answer.id in (0, 3)
        aside.rename(entry)

        def welcome() -> bool:
            carol.say(HERS)
            return type(carol.hear(100)) is messages.Welcome

        until(welcome, "the same connection to be served again")
