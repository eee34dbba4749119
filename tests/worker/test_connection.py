"""A worker's connection, by itself, to a bare ROUTER."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mlx_mesh_wire import encode_header, messages
from mlx_mesh_worker.connection import BATCH, Connection
from tests.live import LiveMesh, until
from tests.worker.peer import Peer


@pytest.fixture
def ends(mesh: LiveMesh) -> Iterator[tuple[Connection, Peer]]:
    """A connection, and its broker's end, which has heard from it."""
    peer = Peer(mesh)
    connection = Connection(f"ipc://{mesh.dir}/backend.sock", None)
    connection.send([(messages.Ping(1), ())])
    peer.take(messages.Ping)
    yield connection, peer
    connection.close()
    peer.socket.close(0)
    peer.context.term()


def heard(connection: Connection, last: messages.Message) -> list[messages.Message]:
    """Return what comes in up to a message."""
    found: list[messages.Message] = []

    def look() -> bool:
        connection.drain(time.monotonic(), lambda _, message, __: found.append(message))
        return last in found

    until(look, repr(last))
    return found


def bundle(*headers: bytes) -> list[bytes]:
    sizes = [size for header in headers for size in (len(header), 0)]
    return [encode_header(messages.Bundle(sizes)), b"".join(headers)]


def test_what_is_in_a_bundle_is_heard_in_order(ends: tuple[Connection, Peer]) -> None:
    connection, peer = ends
    peer.socket.send_multipart([peer.route, *bundle(*(encode_header(messages.Cancel(n)) for n in (1, 2)))])
    peer.send(messages.Pong(3))
    assert [messages.Cancel(1), messages.Cancel(2), messages.Pong(3)] == heard(connection, messages.Pong(3))


def test_a_bundle_inside_a_bundle_is_thrown_away(
    ends: tuple[Connection, Peer], caplog: pytest.LogCaptureFixture
) -> None:
    """As deep as a message has room for, they would take the whole stack."""
    connection, peer = ends
    inner = encode_header(messages.Bundle([]))
    peer.socket.send_multipart([peer.route, *bundle(inner, encode_header(messages.Cancel(2)))])
    peer.send(messages.Pong(3))
    assert [messages.Cancel(2), messages.Pong(3)] == heard(connection, messages.Pong(3))
    assert ["bad_message"] == caplog.messages


def test_a_flood_is_taken_in_batches(ends: tuple[Connection, Peer]) -> None:
    connection, peer = ends
    for n in range(BATCH + 1):
        peer.send(messages.Pong(n))
    found: list[messages.Message] = []
    taken = until(lambda: connection.drain(0.0, lambda _, message, __: found.append(message)))
    assert 0 < taken <= BATCH
    heard_later = [] if len(found) > BATCH else heard(connection, messages.Pong(BATCH))
    assert [messages.Pong(n) for n in range(BATCH + 1)] == found + heard_later


def test_a_renewed_connection_is_another_socket(ends: tuple[Connection, Peer]) -> None:
    connection, peer = ends
    before = connection.socket
    connection.renew()
    assert before.closed
    connection.send([(messages.Ping(2), ())])
    assert 2 == peer.take(messages.Ping)[0].nonce
