"""Routing ids that peers choose for themselves: what libzmq does with them, and that nobody knows which comes next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.security.raw_peer import FIRST_UNSEEDED

ROOT = Path(__file__).parents[2]

NUMBERED = """
import sys, zmq
from mlx_mesh_broker.sockets import seed_routing_ids
from tests.security.raw_peer import RawPeer
seed = sys.argv[1] == "seeded"
if seed:
    seed_routing_ids()
context = zmq.Context()
router = context.socket(zmq.ROUTER)
port = router.bind_to_random_port("tcp://127.0.0.1")
def number():
    with_none = RawPeer(port, b"")
    assert router.poll(30_000)
    return with_none, router.recv_multipart()[0]
kept, first = number()
print(first.hex(), flush=True)
if len(sys.argv) > 2:
    following = b"\\0" + (int.from_bytes(first[1:], "big") + 1).to_bytes(4, "big")
    thief = RawPeer(port, following)
    assert router.poll(30_000)
    assert following == router.recv_multipart()[0]
    print("taken", flush=True)
    number()
    print("alive", flush=True)
"""


def run(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", NUMBERED, *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_no_two_brokers_number_their_peers_alike() -> None:
    running = [run("seeded") for _ in range(2)]
    first, second = [each.communicate(timeout=90)[0] for each in running]
    assert 10 == len(first.strip()) == len(second.strip())
    assert first != second
    assert FIRST_UNSEEDED not in (first.strip(), second.strip())


def test_libzmq_ends_the_process_when_a_peer_took_the_number_that_it_gives_next() -> None:
    """What docs/security.md says that no broker can prevent; it may be struck out there when this fails."""
    process = run("unseeded", "steal")
    out, error = process.communicate(timeout=90)
    assert "taken" in out
    assert "alive" not in out
    assert "Assertion failed" in error
    assert process.returncode < 0
