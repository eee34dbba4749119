"""Processes that do not run for a while: a laptop that sleeps, a SIGSTOP, an event loop that is blocked."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from mlx_mesh import AsyncMesh
from tests.live import LiveMesh, until

pytestmark = pytest.mark.slow

QUICK = ("--ping-s", "0.2", "--silent-s", "1")
PAUSE_S = 2.5
"""Longer than the silence after which a client and a worker make a new connection."""

READER = """
import sys, time
from mlx_mesh import Mesh
with Mesh(sys.argv[1]) as mesh:
    mesh.ready(["tick"])
    with mesh.stream("tick", "t", window=8, timeout=60) as stream:
        for count in stream:
            print(count, flush=True)
            time.sleep(0.005)
            if count == 400:
                break
"""


def test_a_reader_that_was_stopped_has_all_chunks_of_its_stream(own: LiveMesh) -> None:
    own.broker(*QUICK)
    own.worker("mine:Ticker", "ticker")
    command = [sys.executable, "-c", READER, own.endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        lines = [reader.stdout.readline() for _ in range(20)]
        reader.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE_S)
        reader.send_signal(signal.SIGCONT)
        lines += reader.stdout.readlines()
    assert list(range(401)) == [int(line) for line in lines]


def test_a_loop_that_was_blocked_has_all_chunks_of_its_stream(own: LiveMesh) -> None:
    own.broker(*QUICK)
    own.worker("mine:Ticker", "ticker")

    async def read() -> list[int]:
        got: list[int] = []
        async with AsyncMesh(own.endpoint) as mesh:
            await mesh.ready(["tick"])
            async for count in mesh.stream("tick", "t", window=8, timeout=60.0):
                got.append(count)
                if count == 20:
                    time.sleep(PAUSE_S)  # noqa: ASYNC251  what must not be done, and is
                if count == 200:
                    return got
        return got

    assert list(range(201)) == asyncio.run(read())


def test_calls_under_way_while_the_broker_was_stopped_are_answered_soon_after(own: LiveMesh) -> None:
    """Its workers think it gone and connect anew: what they sent before is asked for again."""
    broker = own.broker(*QUICK)
    own.worker("echo", "echo")

    async def calls() -> None:
        async with AsyncMesh(own.endpoint) as mesh:
            await mesh.ready(["echo"])
            stop = asyncio.Event()

            async def caller(number: int) -> None:
                while not stop.is_set():
                    assert number == await mesh.call("echo", number, timeout=30.0)

            callers = [asyncio.create_task(caller(number)) for number in range(32)]
            for _ in range(3):
                await asyncio.sleep(0.2)
                broker.send_signal(signal.SIGSTOP)
                await asyncio.sleep(PAUSE_S)
                broker.send_signal(signal.SIGCONT)
            stop.set()
            async with asyncio.timeout(25):  # sooner than the calls' own deadline
                await asyncio.gather(*callers)

    asyncio.run(calls())
    until(lambda: "broker_was_held_up" in own.log("broker"), "the broker to notice")
