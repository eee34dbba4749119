"""Each toxic of the fault proxy does what it says; a trial behind one that did nothing would prove nothing."""

from __future__ import annotations

import gc
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.live import PATIENCE_S, until

TEXT = bytes(range(256)) * 8


class Echo:
    """Gives back what it is sent, on a TCP port or an ipc path."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.endpoint = f"ipc://{path}"
        threading.Thread(target=self._main, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _main(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except OSError:
                return


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    echo = Echo()
    with Proxy(echo.endpoint) as proxy:
        yield proxy
    echo.close()


def dial(proxy: Proxy) -> socket.socket:
    port = int(proxy.endpoint.rpartition(":")[2])
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def take(client: socket.socket, size: int) -> bytes:
    """Read so many bytes; fewer if the other end closes before."""
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def told(client: socket.socket, text: bytes = TEXT) -> tuple[bytes, float]:
    """Return what comes back and how long that took."""
    began = time.monotonic()
    client.sendall(text)
    return take(client, len(text)), time.monotonic() - began


def test_without_toxics_everything_passes_and_nothing_stays(proxy: Proxy) -> None:
    with dial(proxy) as client:
        assert told(client)[0] == TEXT
        assert proxy.open == proxy.accepted == 1
    with dial(proxy) as client:
        assert told(client)[0] == TEXT


def test_an_ipc_path_is_reached_too(tmp_path: Path) -> None:
    echo = Echo(tmp_path / "echo.sock")
    with Proxy(echo.endpoint) as proxy, dial(proxy) as client:
        assert told(client)[0] == TEXT
    echo.close()


def test_latency_and_jitter_delay_and_keep_the_order(proxy: Proxy) -> None:
    with dial(proxy) as client:
        proxy.up.latency_s = 0.15
        proxy.down.jitter_s = 0.05
        began = time.monotonic()
        for _ in range(3):
            client.sendall(TEXT)
        assert take(client, 3 * len(TEXT)) == 3 * TEXT
        assert 0.1 < time.monotonic() - began


def test_a_rate_bounds_the_bytes_of_a_second(proxy: Proxy) -> None:
    with dial(proxy) as client:
        proxy.down.rate_bytes_s = 10_000
        answer, seconds = told(client)
        assert answer == TEXT
        assert seconds > 0.15


def test_slices_come_in_many_segments(proxy: Proxy) -> None:
    with dial(proxy) as client:
        proxy.down.slice_bytes = 16

        def pieces() -> int:
            client.sendall(TEXT)
            sizes = []
            while sum(sizes) < len(TEXT):
                sizes.append(len(client.recv(len(TEXT) - sum(sizes))))
            return len(sizes)

        until(lambda: pieces() > 3, "segments that are read before the next ones are there")


def test_a_reset_is_a_reset_for_whoever_reads(proxy: Proxy) -> None:
    with dial(proxy) as client:
        assert told(client)[0] == TEXT
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_what_is_half_open_says_nothing_more_and_those_who_come_later_are_served(proxy: Proxy) -> None:
    with dial(proxy) as client:
        assert told(client)[0] == TEXT
        proxy.half_open()
        client.settimeout(0.1)
        client.sendall(TEXT)
        with pytest.raises(TimeoutError):
            client.recv(1)
        with dial(proxy) as other:
            assert told(other)[0] == TEXT


def test_a_connection_that_lost_bytes_stays_lost(proxy: Proxy) -> None:
    with dial(proxy) as client:
        assert told(client)[0] == TEXT
        proxy.up.swallow = True
        client.sendall(TEXT)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        until(lambda: proxy.numb, "bytes that are lost")
        proxy.clear()
        client.sendall(TEXT)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_cut_comes_after_so_many_bytes(proxy: Proxy) -> None:
    proxy.down.cut_after_bytes = 1000
    with dial(proxy) as client:
        assert told(client)[0] == TEXT[:1000]
    with dial(proxy) as client:
        assert told(client)[0] == TEXT[:1000]


def test_corruption_changes_some_bytes_and_their_number_never(proxy: Proxy) -> None:
    proxy.up.corrupt_every_bytes = 200
    with dial(proxy) as client:
        answer = told(client)[0]
    changed = sum(one != other for one, other in zip(answer, TEXT, strict=True))
    assert 0 < changed < 50


def test_a_stalled_connection_is_accepted_and_not_served(proxy: Proxy) -> None:
    proxy.stall = True
    with dial(proxy) as client:
        client.sendall(TEXT)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.stall = False
        with dial(proxy) as other:
            assert told(other)[0] == TEXT


def test_a_connection_that_is_reset_while_it_is_read_and_written_leaves_no_callback_behind(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop would find its descriptor closed, or another connection's."""
    with dial(proxy) as client:
        client.sendall(bytes(6 << 20))  # More comes back than there is room for, as long as nobody reads it.
        wait_until_idle(client)
        proxy.reset()
        assert 0 == proxy.open
    with dial(proxy) as client:
        assert told(client)[0] == TEXT
    assert [] == caplog.messages


def test_a_proxy_that_is_closed_while_its_connections_end_leaves_no_socket_behind() -> None:
    echo = Echo()
    gc.collect()  # What others have left is not this test's.
    with warnings.catch_warnings(record=True) as told_of:
        warnings.simplefilter("always", ResourceWarning)
        for turn in range(30):
            with Proxy(echo.endpoint) as proxy:
                clients = [dial(proxy) for _ in range(4)]
                for client in clients:
                    assert told(client)[0] == TEXT
                for client in clients:
                    client.close()
                time.sleep(turn % 10 * 1e-4)
        gc.collect()
    echo.close()
    assert [] == told_of


def wait_until_idle(client: socket.socket) -> None:
    """Wait until no more comes to a client that does not read."""
    there = 0
    while (more := len(client.recv(8 << 20, socket.MSG_PEEK))) > there:
        there = more
        time.sleep(0.2)
