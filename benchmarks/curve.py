"""What keys cost: one broker that echoes over ipc, over TCP without keys and over TCP with them, in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import zmq

from benchmarks.figures import by_peer, median_of_ratios
from benchmarks.processes import BIN, Group, free_port, until
from benchmarks.progress import progress
from benchmarks.results import Result, Target

ROUNDS = 7
SECONDS = 2.0
QUICK_ROUNDS = 1
QUICK_SECONDS = 0.4
WORKERS = 2

IPC, BARE, KEYED = "ipc", "tcp", "tcp with keys"
Rounds = list[dict[str, dict[str, float]]]

KIB = 1024
SIZES = (100, KIB, 16 * KIB)
MESSAGES = 20_000
BURST = 64

CPU_MOST, P50_MOST, RATE_LEAST, SEALING_MOST_US = 2.0, 1.5, 0.5, 10.0
"""Held to so that a step backwards is seen: with keys each message is sealed and opened, once a hop."""


def run(folder: Path, *, quick: bool = False) -> Result:
    """Measure the three in interleaved rounds; write curve.json and curve.svg."""
    seconds, count = (QUICK_SECONDS, QUICK_ROUNDS) if quick else (SECONDS, ROUNDS)
    with Group() as group:
        rounds = measure(group, count, seconds)
    names = (IPC, BARE, KEYED)
    medians = {n: {f: statistics.median(by_peer(rounds, n, f)) for f in rounds[0][n]} for n in names}
    sealed = sealing(messages=MESSAGES // 10 if quick else MESSAGES)
    data = {"medians": medians, "sealing_us": sealed, "rounds": rounds}
    result = Result("curve", targets(rounds, sealed), data, quick)
    result.save(folder)
    _plot(medians, folder)
    return result


def measure(group: Group, count: int, seconds: float) -> Rounds:
    """Return the figures of so many rounds. Workers are local in all of them: what differs is the client's side."""
    key, addresses = start(group)
    broker = addresses.pop("pid")
    rounds: Rounds = []
    for number in range(count):
        rounds.append({})
        for name in (list(addresses) * 2)[number % len(addresses) :][: len(addresses)]:
            group.env["MLX_MESH_KEYS"] = str(key) if name == KEYED else ""
            found = group.ask("benchmarks.rpc.load", "mesh", addresses[name], broker, str(seconds))
            rounds[-1][name] = found
            progress(
                f"curve: round {number + 1}, {name}: p50 {found['p50']:.0f} us, "
                f"{found['requests_per_s']:,.0f} requests/s, broker {found['middle_cpu_us']:.1f} us"
            )
    return rounds


def start(group: Group) -> tuple[Path, dict[str, str]]:
    """Start a broker with keys and its workers; return a client's file and the addresses, ``pid`` of the broker too."""
    directory = group.dir / "keys"
    group.env["MLX_MESH_KEYS_DIR"] = str(directory)
    for args in (["init"], ["add-client", "bench"]):
        subprocess.run([BIN / "mlx-mesh", "keys", *args], env=group.env, check=True, capture_output=True)
    bare = free_port()
    keyed = until(lambda: {free_port()} - {bare}, "another free port").pop()
    # An interface given by its name counts as one beyond loopback, and so needs keys.
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    listen = f"tcp://127.0.0.1:{bare},tcp://{loopback}:{keyed}"
    broker = group.mesh("echo", WORKERS, "--listen", listen)
    return directory / "bench.key", {
        IPC: group.endpoint,
        BARE: f"tcp://127.0.0.1:{bare}",
        KEYED: f"tcp://127.0.0.1:{keyed}",
        "pid": str(broker.pid),
    }


def sealing(sizes: Sequence[int] = SIZES, messages: int = MESSAGES) -> dict[int, float]:
    """Return what sealing and opening a message of each size costs, both ends together, in microseconds of CPU.

    It is the CPU time of this process with two sockets of plain ZeroMQ, so that other work on the machine disturbs
    it little; the median of five, less the same without keys.
    """
    found = {}
    for size in sizes:
        with_keys, without = (
            statistics.median(_cpu_us(size, messages, keyed=keyed) for _ in range(5)) for keyed in (True, False)
        )
        found[size] = with_keys - without
        progress(f"curve: sealing and opening {size} bytes: {found[size]:.1f} us")
    return found


def _cpu_us(size: int, messages: int, *, keyed: bool) -> float:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    if keyed:
        (public, secret), (own_public, own_secret) = zmq.curve_keypair(), zmq.curve_keypair()
        router.set(zmq.CURVE_SERVER, 1)
        router.set(zmq.CURVE_SECRETKEY, secret)
        for option, key in (
            (zmq.CURVE_SERVERKEY, public),
            (zmq.CURVE_PUBLICKEY, own_public),
            (zmq.CURVE_SECRETKEY, own_secret),
        ):
            dealer.set(option, key)
    try:
        dealer.connect(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
        payload = bytes(size)
        dealer.send(payload)
        router.recv_multipart()
        began = time.process_time()
        for _ in range(messages // BURST):
            for _ in range(BURST):
                dealer.send(payload)
            for _ in range(BURST):
                router.recv_multipart()
        return (time.process_time() - began) / (messages // BURST * BURST) * 1e6
    finally:
        context.destroy(0)


def targets(rounds: Rounds, sealed: dict[int, float]) -> list[Target]:
    """Return the lines of the table: with keys, of the same without."""

    def ratio(figure: str) -> float:
        return median_of_ratios(by_peer(rounds, KEYED, figure), by_peer(rounds, BARE, figure))

    def detail(figure: str, unit: str) -> str:
        values = {name: statistics.median(by_peer(rounds, name, figure)) for name in (KEYED, BARE, IPC)}
        return ", ".join(f"{name} {value:,.0f} {unit}" for name, value in values.items())

    rate, cpu = "requests_per_s", "middle_cpu_us"
    return [
        Target("echo p50 with keys, of TCP without", "at most", P50_MOST, ratio("p50"), "x", detail("p50", "us")),
        Target(
            "echo requests/s at 64 in flight, of TCP without", "at least", RATE_LEAST, ratio(rate), "x",
            detail(rate, "requests/s"),
        ),
        Target("broker CPU per request, of TCP without", "at most", CPU_MOST, ratio(cpu), "x", detail(cpu, "us")),
        Target(
            "CPU to seal and open 1 KB", "at most", SEALING_MOST_US, sealed[KIB], "us",
            ", ".join(f"{size} bytes {us:.1f} us" for size, us in sealed.items()),
        ),
    ]  # fmt: skip


def _plot(medians: dict[str, dict[str, float]], folder: Path) -> None:
    from benchmarks.plots import bars

    panels = {
        "p50 at 1 in flight, microseconds": "p50",
        "requests/s at 64 in flight": "requests_per_s",
        "CPU of the broker, us per request": "middle_cpu_us",
    }
    chosen = {title: {name: medians[name][figure] for name in medians} for title, figure in panels.items()}
    bars(folder / "curve.svg", "Echo of 1 KB with and without keys", chosen)
