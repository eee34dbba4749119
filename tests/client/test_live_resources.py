"""What clients take and give back, and what they do without."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import psutil
import pytest

from mlx_mesh import AsyncMesh, DeadlineExceededError, Mesh
from tests.live import LiveMesh, until


def descriptors() -> int:
    gc.collect()
    return int(psutil.Process().num_fds())


def use(endpoint: str, timeout: float = 30.0) -> None:
    with Mesh(endpoint) as mesh:
        mesh.call("echo", 1, timeout=timeout)
        with mesh.stream("tick", "resources", timeout=timeout) as stream:
            next(stream)


async def use_async(endpoint: str) -> None:
    async with AsyncMesh(endpoint) as mesh:
        await mesh.call("echo", 1)
        async with mesh.stream("tick", "resources") as stream:
            await anext(stream)


def test_closed_clients_leave_no_thread_and_no_descriptor(live: LiveMesh) -> None:
    use(live.endpoint)
    asyncio.run(use_async(live.endpoint))
    before, threads = descriptors(), threading.active_count()
    for _ in range(10):
        use(live.endpoint)
        asyncio.run(use_async(live.endpoint))
    until(lambda: descriptors() <= before, "descriptors to be given back")
    until(lambda: threading.active_count() <= threads, "threads to end")


def test_clients_that_found_no_broker_leave_nothing_either(own: LiveMesh) -> None:
    def fail() -> None:
        with Mesh(own.endpoint) as mesh, pytest.raises(DeadlineExceededError):
            mesh.call("echo", 1, timeout=0.05)

    fail()
    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        fail()
    until(lambda: descriptors() <= before, "descriptors to be given back")
    until(lambda: threading.active_count() <= threads, "threads to end")


def test_closing_is_quick_with_and_without_a_broker(live: LiveMesh, own: LiveMesh) -> None:
    for endpoint in (live.endpoint, own.endpoint):
        mesh = Mesh(endpoint)
        closer = threading.Thread(target=mesh.close)
        closer.start()
        closer.join(20.0)
        assert not closer.is_alive()


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "mlx", "mlx_lm", "psutil", "prometheus_client", "tokenizers"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from mlx_mesh import Mesh
with Mesh(sys.argv[1]) as mesh:
    found = mesh.embed(["abc", "d"])
    assert found.tolist() == [[3.0] * 3, [1.0] * 3]
    try:
        found.numpy()
    except ImportError as error:
        print(error)
"""


@pytest.mark.slow
def test_everything_but_numpy_works_without_numpy_and_mlx_and_numpy_says_what_is_missing(live: LiveMesh) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKED, live.endpoint], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "Embeddings.numpy() needs numpy: pip install numpy, or use tolist()\n"


@pytest.mark.slow
def test_a_program_that_does_not_close_its_client_still_ends(live: LiveMesh) -> None:
    for code in (
        "m = Mesh(sys.argv[1]); print(m.call('echo', 5))",
        "m = Mesh(sys.argv[1]); s = m.stream('tick', 'unclosed'); print(next(s) + 5)",
        "async def f():\n m = AsyncMesh(sys.argv[1]); print(await m.call('echo', 5))\nasyncio.run(f())",
    ):
        whole = f"import sys, asyncio\nfrom mlx_mesh import AsyncMesh, Mesh\n{code}"
        ran = subprocess.run(
            [sys.executable, "-c", whole, live.endpoint], capture_output=True, text=True, timeout=60, check=False
        )
        assert (0, "5\n", "") == (ran.returncode, ran.stdout, ran.stderr)
