"""Frames over real sockets."""

from __future__ import annotations

import gc
import os
import resource
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from mlx_mesh_wire import host
from mlx_mesh_wire.recorder import FlightRecorder, discard, read_running
from mlx_mesh_wire.sleeper import Sleeper
from mlx_mesh_wire.transport import DISCARD_FRAMES, RefusedMessage, receiver, sender
from mlx_mesh_wire.wake import Wake

Pair = tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]


@pytest.fixture
def pair() -> Iterator[Pair]:
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.set(zmq.ROUTER_MANDATORY, 1)
    router.bind("inproc://pair")
    dealer.connect("inproc://pair")
    yield router, dealer
    context.destroy(0)


def soon(receive: Callable[[], Any]) -> Any:
    for _ in range(500):
        found = receive()
        if found is not None:
            return found
        time.sleep(0.01)
    raise AssertionError("nothing came")


def test_messages_arrive_whole_and_in_order_and_none_when_there_are_none(pair: Pair) -> None:
    router, dealer = pair
    send, receive = sender(dealer), receiver(router, routed=True)
    assert receive() is None
    send([b"one"])
    send([b"two", memoryview(b"body"), b""])
    assert soon(receive)[1:] == [b"one"]
    assert soon(receive)[1:] == [b"two", b"body", b""]
    assert receive() is None


def test_a_message_over_a_limit_is_dropped_whole_and_the_next_one_is_intact(pair: Pair) -> None:
    router, dealer = pair
    send, receive = sender(dealer), receiver(router, routed=True, frames_max=3, message_max_bytes=100)
    send([b"a", b"b", b"c"])
    send([b"head", *[b"x"] * 9])
    send([b"head", b"x" * 60, b"y" * 60])
    send([b"good"])
    route = soon(receive)[0]
    for reason in ("over 3 frames", "over 100 bytes"):
        with pytest.raises(RefusedMessage) as caught:
            soon(receive)
        assert (route, b"head") == (caught.value.first, caught.value.header)
        assert reason in caught.value.reason
    assert [route, b"good"] == soon(receive)


def test_a_message_of_very_many_frames_is_thrown_away_in_parts_so_that_others_get_their_turn(pair: Pair) -> None:
    router, dealer = pair
    send, receive = sender(dealer), receiver(router, routed=True)
    send([b"head", *[b""] * (3 * DISCARD_FRAMES)])
    send([b"good"])
    refused = []
    while True:
        try:
            frames = soon(receive)
        except RefusedMessage as oversized:
            refused.append(oversized)
        else:
            break
    assert [frames[0], b"good"] == frames
    assert [b"head", b"", b""] == [each.header for each in refused]
    assert {frames[0]} == {each.first for each in refused}


def test_what_was_refused_is_gone_as_soon_as_that_was_told(pair: Pair) -> None:
    router, dealer = pair
    send, receive = sender(dealer), receiver(router, routed=True)
    send([b"head", *[b""] * (2 * DISCARD_FRAMES)])
    gc.disable()
    try:
        for _ in range(2):
            try:
                soon(receive)
            except RefusedMessage as oversized:
                told = weakref.ref(oversized)
            assert told() is None
    finally:
        gc.enable()


def test_what_is_over_the_bytes_is_not_read_to_its_end(pair: Pair) -> None:
    router, dealer = pair
    send, receive = sender(dealer), receiver(router, routed=True, message_max_bytes=10_000)
    send([b"head", *[b"x" * 6000] * 300])
    with pytest.raises(RefusedMessage, match="over 10000 bytes"):
        soon(receive)
    with pytest.raises(RefusedMessage, match="over 10000 bytes"):
        soon(receive)
    assert receive() is None


def test_a_send_to_a_peer_that_is_gone_fails(pair: Pair) -> None:
    router, _ = pair
    with pytest.raises(zmq.ZMQError) as caught:
        sender(router)([b"nobody", b"hello"])
    assert caught.value.errno == zmq.EHOSTUNREACH


def test_a_wake_ends_a_sleep_and_can_be_cleared() -> None:
    wake = Wake()
    with Sleeper([wake.fd]) as sleeper:
        assert set() == sleeper.sleep(0)
        wake.set()
        wake.set()
        assert {wake.fd} == sleeper.sleep(5)
        wake.clear()
        wake.clear()
        assert set() == sleeper.sleep(0)
    wake.close()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing for a moment."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_flight_recorder_tells_what_was_running(tmp_path: Path) -> None:
    instance = b"i" * 16
    assert read_running(tmp_path, instance) is None
    recorder = FlightRecorder(tmp_path, instance)
    assert frozenset() == read_running(tmp_path, instance)
    recorder.begin([5, 7])
    assert frozenset({5, 7}) == read_running(tmp_path, instance)
    recorder.begin(range(1, 2000))
    assert len(read_running(tmp_path, instance) or ()) == 511
    recorder.end()
    assert frozenset() == read_running(tmp_path, instance)
    recorder.begin([5, 7])
    assert frozenset({5, 7}) == read_running(tmp_path, instance)
    with no_descriptors():
        assert frozenset() == read_running(tmp_path, instance)
    recorder.end()
    (tmp_path / "recorders" / instance.hex()).write_bytes(b"short")
    assert read_running(tmp_path, instance) is None
    discard(tmp_path, instance)
    discard(tmp_path, instance)
    recorder.close()
    assert list((tmp_path / "recorders").iterdir()) == []


def test_a_process_is_known_by_its_start() -> None:
    name, machine, pid, start = host.own_identity()
    assert (os.getpid(), host.machine_id(), host.host_name()) == (pid, machine, name)
    assert start > 0
    assert start == host.process_start(pid)
    assert host.process_start(2**22 + 1) == 0
