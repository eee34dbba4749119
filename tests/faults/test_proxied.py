"""What stands between a client and its broker may be there while the broker is not, and may damage a greeting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mlx_mesh import Mesh, UnauthorizedError
from mlx_mesh_wire.handshake import HANDSHAKES_FAIL_S
from tests.faults.proxy import Proxy
from tests.live import LiveMesh, live_mesh, until

TOLD_S = 3.0
"""Longer than the silence that has a client connect anew, and than it takes to tell that this is in vain."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        mesh.env["MLX_MESH_BROKER_SILENT_S"] = "1"
        mesh.broker()
        mesh.worker()
        with Mesh(mesh.endpoint) as client:
            client.ready(["echo"])
        yield mesh


@pytest.mark.trial
def test_a_broker_that_is_away_behind_a_proxy_is_no_lack_of_keys(mesh: LiveMesh) -> None:
    with (
        Proxy(f"ipc://{mesh.dir}/frontend.sock") as proxy,
        Mesh(proxy.endpoint) as client,
        ThreadPoolExecutor() as pool,
    ):
        client.ready(["echo"])
        broker = mesh.processes[0]
        broker.kill()
        broker.wait()
        answer = pool.submit(client.call, "echo", 7, timeout=60)
        before = proxy.accepted
        end = time.monotonic() + TOLD_S
        until(lambda: time.monotonic() > end and proxy.accepted > before + 2, "vain connections")
        assert not answer.done(), answer.exception()
        mesh.broker()
        assert 7 == answer.result()


@pytest.mark.trial
def test_a_damaged_greeting_is_greeted_again(mesh: LiveMesh) -> None:
    with (
        Proxy(f"ipc://{mesh.dir}/frontend.sock") as proxy,
        Mesh(proxy.endpoint) as client,
        ThreadPoolExecutor() as pool,
    ):
        client.ready(["echo"])
        before = proxy.accepted
        proxy.down.corrupt_every_bytes = 2
        proxy.reset()
        answer = pool.submit(client.call, "echo", 7, timeout=60)
        until(lambda: proxy.accepted > before + 1 or answer.done(), "a greeting that is damaged")
        proxy.clear()
        proxy.reset()
        assert 7 == answer.result()


@contextmanager
def stalled_proxy(mesh: LiveMesh) -> Iterator[Proxy]:
    with Proxy(f"ipc://{mesh.dir}/frontend.sock") as proxy:
        proxy.stall = True
        yield proxy


def test_one_broken_and_one_swallowed_greeting_are_no_lack_of_keys(mesh: LiveMesh) -> None:
    with stalled_proxy(mesh) as proxy, Mesh(proxy.endpoint) as client, ThreadPoolExecutor() as pool:
        answer = pool.submit(client.call, "echo", 7, timeout=60)
        until(lambda: proxy.open, "a first connection")
        proxy.reset()
        until(lambda: proxy.accepted > 1 and proxy.open, "a second one")
        time.sleep(HANDSHAKES_FAIL_S + 0.2)  # Both have ended by then, and the second so long after the first.
        proxy.stall = False
        proxy.down.latency_s = 0.6  # The client has time to look at what has failed before it knows a broker.
        proxy.reset()
        assert 7 == answer.result()


def test_greetings_that_are_broken_again_and_again_may_be_a_lack_of_keys(mesh: LiveMesh) -> None:
    with stalled_proxy(mesh) as proxy, Mesh(proxy.endpoint) as client, ThreadPoolExecutor() as pool:
        answer = pool.submit(client.call, "echo", 7, timeout=60)
        while not answer.done():
            proxy.reset()
            time.sleep(0.02)
        with pytest.raises(UnauthorizedError, match=r"end before they are made, again and again; .* give some"):
            answer.result()
