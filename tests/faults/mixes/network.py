"""Faults of the network, on the way of the clients and on that of the workers."""

from __future__ import annotations

from tests.faults.mixes.stage import Stage
from tests.faults.proxy import Proxy, Toxics


def proxies(stage: Stage) -> tuple[Proxy, Proxy]:
    """Return the proxies of a stage that has them."""
    assert stage.near is not None
    assert stage.far is not None
    return stage.near, stage.far


def ways(stage: Stage) -> list[Toxics]:
    """Return the toxics of all directions."""
    return [way for proxy in proxies(stage) for way in (proxy.up, proxy.down)]


def latency(stage: Stage) -> None:
    """Delay every direction by up to 0.3 s, and jitter by as much; SIGKILL workers meanwhile."""
    while True:
        for way in ways(stage):
            way.latency_s = stage.chance.choice((0.0, 0.01, 0.1, 0.3))
            way.jitter_s = stage.chance.choice((0.0, 0.02, 0.3))
        stage.faults["changes of latency"] += 1
        if not stage.pause(0.5, 2.0):
            return
        stage.kill_worker()


def slow(stage: Stage) -> None:
    """Let little through, in small pieces."""
    while True:
        for way in ways(stage):
            way.rate_bytes_s = stage.chance.choice((0.0, 200_000.0, 1_000_000.0))
            way.slice_bytes = stage.chance.choice((0, 7, 100, 1000))
            if way.slice_bytes == 7:
                way.rate_bytes_s = 0.0
        stage.faults["changes of pace"] += 1
        if not stage.pause(0.5, 2.0):
            return


def resets(stage: Stage) -> None:
    """RST every connection of the clients, or of the workers, or of both."""
    while stage.pause(0.3, 1.5):
        for proxy in stage.chance.choice((proxies(stage), proxies(stage)[:1], proxies(stage)[1:])):
            stage.faults["resets"] += proxy.open
            proxy.reset()


def half_open(stage: Stage) -> None:
    """Have every connection of a side fall silent while both ends take it to be open."""
    while stage.pause(1.0, 6.0):
        proxy = stage.chance.choice(proxies(stage))
        stage.faults["half-open"] += proxy.open
        proxy.half_open()


def cuts(stage: Stage) -> None:
    """Close connections after some thousands of bytes; some of these fall within a frame."""
    while True:
        for way in ways(stage):
            way.cut_after_bytes = stage.chance.choice((0, 0, 150_000, 400_000)) + stage.chance.randrange(50_000, 90_000)
        stage.faults["cuts"] = sum(proxy.accepted for proxy in proxies(stage))
        if not stage.pause(0.5, 2.0):
            return


def stalls(stage: Stage) -> None:
    """Reset connections while those that come in their place are accepted and never served.

    That is noticed by its silence, after 5 s: with less between two of them next to nothing is served in all the time.
    """
    while True:
        proxy = stage.chance.choice(proxies(stage))
        proxy.stall = True
        stage.faults["stalls"] += 1
        proxy.reset()
        stage.pause(0.5, 2.0)
        proxy.stall = False
        if not stage.pause(6.0, 8.0):
            return


def corruption(stage: Stage) -> None:
    """Change a byte in every few thousand, in both directions of the clients, of the workers, or of nobody."""
    while True:
        for way in ways(stage):
            way.corrupt_every_bytes = stage.chance.choice((0, 0, 20_000, 100_000))
        stage.faults["changes of corruption"] += 1
        if not stage.pause(0.5, 2.0):
            return
