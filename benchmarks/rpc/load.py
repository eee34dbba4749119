"""A client process: measures latency, then throughput, and prints both as JSON.

``python -m benchmarks.rpc.load KIND ADDRESS MIDDLE_PID SECONDS``. Each measurement has a process of its own, so that
no client library runs in the leftovers of another.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import latency_summary
from benchmarks.processes import cpu_s
from benchmarks.rpc.clients import ASYNCIO, PAYLOAD, Call

IN_FLIGHT = 64
WARM_CALLS = 300
"""Enough for connections, caches and specialised bytecode to settle."""

LEAST = 16 * IN_FLIGHT
"""Calls that are made however long they take: the kernel tells CPU time in hundredths of a second."""


class Clock:
    """Times an interval: seconds passed, and CPU seconds of the client and of the process in the middle."""

    def __init__(self, middle_pid: int) -> None:
        self._pid = middle_pid
        self._cpu = cpu_s(middle_pid)
        self._own = time.process_time()
        self._began = time.perf_counter()

    def figures(self, requests: int) -> dict[str, float]:
        """Return rates and costs per request since the clock was made."""
        seconds = time.perf_counter() - self._began
        own, middle = time.process_time() - self._own, cpu_s(self._pid) - self._cpu
        return {
            "requests": requests,
            "seconds": seconds,
            "requests_per_s": requests / seconds,
            "client_cpu_us": own / requests * 1e6,
            "middle_cpu_us": middle / requests * 1e6 if self._pid else float("nan"),
        }


async def asyncio_load(kind: str, address: str, middle_pid: int, seconds: float) -> dict[str, Any]:
    """Measure a client that is made for asyncio."""
    async with ASYNCIO[kind](address, IN_FLIGHT) as calls:
        for call in (*calls, *[calls[0]] * WARM_CALLS):
            assert await call(PAYLOAD) == PAYLOAD
        latencies = await _one_in_flight(calls[0], seconds)
        return {**latency_summary(latencies), **await _many_in_flight(calls, middle_pid, seconds)}


async def _one_in_flight(call: Call, seconds: float) -> list[float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or not latencies:
        await call(PAYLOAD)
        latencies.append((time.perf_counter() - began) * 1e6)
    return latencies


async def _many_in_flight(calls: list[Call], middle_pid: int, seconds: float) -> dict[str, float]:
    done = 0
    clock = Clock(middle_pid)
    end = time.perf_counter() + seconds

    async def caller(call: Call) -> None:
        nonlocal done
        while time.perf_counter() < end or done < LEAST:
            assert len(await call(PAYLOAD)) == len(PAYLOAD)
            done += 1

    await asyncio.gather(*map(caller, calls))
    return clock.figures(done)


def raw_load(kind: str, address: str, middle_pid: int, seconds: float) -> dict[str, Any]:
    """Measure a bare DEALER: against zmq.proxy, or speaking the mesh's protocol by hand."""
    from benchmarks.rpc.raw import RawClient

    with RawClient(address, speaks_mesh=kind == "mesh-raw") as client:
        for _ in range(WARM_CALLS):
            client.send()
            client.receive()
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end or not latencies:
            client.send()
            client.receive()
            latencies.append((time.perf_counter() - began) * 1e6)
        clock = Clock(middle_pid)
        end = time.perf_counter() + seconds
        for _ in range(IN_FLIGHT):
            client.send()
        done = 0
        while time.perf_counter() < end or done < LEAST:
            client.receive()
            client.send()
            done += 1
        return {**latency_summary(latencies), **clock.figures(done)}


def gevent_load(kind: str, address: str, middle_pid: int, seconds: float) -> dict[str, Any]:
    """Measure zerorpc, whose clients are made for gevent."""
    assert kind == "zerorpc"
    import gevent
    import zerorpc

    client = zerorpc.Client(heartbeat=None, timeout=30)
    for endpoint in address.split(","):
        client.connect(endpoint)
    call: Callable[[bytes], bytes] = client.echo
    for _ in range(WARM_CALLS):
        assert call(PAYLOAD) == PAYLOAD
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or not latencies:
        call(PAYLOAD)
        latencies.append((time.perf_counter() - began) * 1e6)
    done = 0
    clock = Clock(middle_pid)
    end = time.perf_counter() + seconds

    def caller() -> None:
        nonlocal done
        while time.perf_counter() < end or done < LEAST:
            call(PAYLOAD)
            done += 1

    gevent.joinall([gevent.spawn(caller) for _ in range(IN_FLIGHT)], raise_error=True)
    return {**latency_summary(latencies), **clock.figures(done)}


def main(kind: str, address: str, middle_pid: int, seconds: float) -> dict[str, Any]:
    """Measure one client."""
    if kind in ASYNCIO:
        return asyncio.run(asyncio_load(kind, address, middle_pid, seconds))
    return (gevent_load if kind == "zerorpc" else raw_load)(kind, address, middle_pid, seconds)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
