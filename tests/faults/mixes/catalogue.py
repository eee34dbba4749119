"""The mixes: what hurts, and which errors that may cost a caller, each with its reason. All else is a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from mlx_mesh_wire.errors import ERROR_CLASSES
from tests.faults.mixes import network, processes, supervised, surroundings
from tests.faults.mixes.keyed import Keyed
from tests.faults.mixes.stage import NOT_POISON, WORKERS, Stage, Trouble
from tests.faults.mixes.supervised import Supervised

Allowed = Mapping[str, str]
"""``KIND CODE`` to the reason; ``*`` is any kind."""

ALWAYS: Allowed = {"hasty DEADLINE_EXCEEDED": "its deadline is too short on purpose"}
ONCE: Allowed = {"once WORKER_LOST": "it may have begun in what was lost, and must not be run again"}
NEW: Allowed = {
    "once DEADLINE_EXCEEDED": "whether it has begun is not known to a new broker, who waits for whoever holds it",
}
UNHEARD: Allowed = {"visit DEADLINE_EXCEEDED": "its connection is not taken before its deadline, which is short"}
POISON: Allowed = {"poison POISON_REQUEST": "it kills whoever computes it"}
DAMAGED: Allowed = {
    f"* {code}": "what arrives is not what was sent, and without keys no checksum but TCP's is there to tell"
    for code in ERROR_CLASSES
}
LOSSES: Allowed = {
    f"* {code}": "CURVE does not seal the flags of a frame: hit there, a message is lost, and the connection lives"
    for code in ("INTERNAL", "DEADLINE_EXCEEDED")
}
"""A chunk is missing; a request or its answer is."""

RARE_SHARE = 1e-4
"""Of the calls: only a byte in some hundred is one of flags."""

GARBLED: Allowed = {
    "visit UNAUTHORIZED": "to a client that knows no broker yet, a damaged greeting is one without keys"
}
ABSENT: Allowed = {
    "visit UNAUTHORIZED": "to a client that knows no broker yet, a proxy without one looks like one with keys"
}
ANEW: Allowed = {"items DEADLINE_EXCEEDED": "a stream of many bytes that is not resumable begins anew after each cut"}
MANY_TRIES = {**NOT_POISON, "MLX_MESH_BROKER_ATTEMPTS_MAX": "1000"}
"""Connections live for so short a time that a job may be on its way more often than the 16 times allowed otherwise."""

NOISY = {**NOT_POISON, "MLX_MESH_BROKER_LOG_LEVEL": "debug", "MLX_MESH_WORKER_LOG_LEVEL": "debug"}
SIX = {**WORKERS, "trial-2": "mine:Trial", "echo-2": "echo"}
"""Most of the time there is one of each kind that may be killed, while two are on their way back."""

THREE = {"trial-0": "mine:Trial", "trial-1": "mine:Trial", "trial-2": "mine:Trial", "echo-0": "echo"}
"""Poison kills two of the three; the third goes on."""

CLIENTS = ("async", "async", "sync", "visit")


class Mix(NamedTuple):
    """One mix.

    Attributes:
        trouble: hurts the stage.
        allowed: errors that it may cost beside ``ALWAYS``.
        env: settings of the mesh.
        stage: the sort of mesh.
        workers: names and engines of the workers.
        proxied: clients and workers are behind proxies.
        clients: which clients ask.
        visit_s: the deadline of visitors, in seconds.
        prepare: is called before anything is started.
        rare: errors that it may cost in ``RARE_SHARE`` of the calls.
        blind: nothing can tell damaged answers from others; they are counted apart.
        limits: shell words before the broker is started.
        log: where the logs go, if not into files.
    """

    trouble: Trouble
    allowed: Allowed
    env: Mapping[str, str] = NOT_POISON
    stage: type[Stage] = Stage
    workers: Mapping[str, str] = WORKERS
    proxied: bool = False
    clients: Sequence[str] = CLIENTS
    visit_s: float = 30.0
    prepare: Trouble | None = None
    rare: Allowed = MappingProxyType({})
    blind: bool = False
    limits: str = ""
    log: str = ""


MIXES: dict[str, Mix] = {
    "worker-kills": Mix(processes.worker_kills, ONCE, workers=SIX),
    "worker-stops": Mix(processes.worker_stops, ONCE),
    "broker-kills": Mix(processes.broker_kills, ONCE | NEW),
    "broker-stops": Mix(processes.broker_stops, ONCE),
    "guard-kills": Mix(supervised.guard_kills, ONCE, stage=Supervised, workers=supervised.WORKERS),
    "supervisord-kills": Mix(
        supervised.supervisord_kills, ONCE | NEW | UNHEARD, stage=Supervised, workers=supervised.WORKERS
    ),
    "latency": Mix(network.latency, ONCE, proxied=True),
    "slow": Mix(network.slow, ONCE, proxied=True),
    "resets": Mix(network.resets, ONCE, MANY_TRIES, proxied=True),
    "half-open": Mix(network.half_open, ONCE, proxied=True),
    "cuts": Mix(network.cuts, ONCE | ANEW, MANY_TRIES, proxied=True),
    "stalls": Mix(network.stalls, ONCE, proxied=True),
    "corruption": Mix(network.corruption, ONCE | GARBLED, MANY_TRIES, stage=Keyed, proxied=True, rare=LOSSES),
    "corruption-without-keys": Mix(network.corruption, DAMAGED, MANY_TRIES, proxied=True, blind=True),
    "descriptors": Mix(surroundings.few_descriptors, ONCE | NEW | UNHEARD, limits="ulimit -n 64", visit_s=3.0),
    "full-disk": Mix(surroundings.logs, ONCE | NEW, NOISY, log=surroundings.full_disk()),
    "paths": Mix(surroundings.paths, ONCE | NEW | UNHEARD, visit_s=3.0),
    "wall-clock": Mix(surroundings.wall_clock, ONCE, prepare=surroundings.set_back),
    "client-kills": Mix(surroundings.client_kills, ONCE),
    "poison": Mix(processes.watch, ONCE | POISON, {}, workers=THREE, clients=(*CLIENTS, "poison")),
    "everything": Mix(surroundings.everything, ONCE | NEW | UNHEARD | ABSENT, MANY_TRIES, proxied=True),
}


QUICK = {
    "MLX_MESH_BROKER_SUSPECT_S": "1.5",
    "MLX_MESH_BROKER_LOST_S": "2",
    "MLX_MESH_BROKER_SILENT_S": "2",
}
"""For trials that are over in seconds: who is silent is given up sooner."""


def in_turn(*names: str) -> Mix:
    """Return a mix that consists of several, one after another, on one mesh; it must be able to carry each of them."""
    mixes = [MIXES[name] for name in names]

    def trouble(stage: Stage) -> None:
        share_s = stage.left() / len(mixes)
        for mix in mixes:
            stage.act(share_s)
            mix.trouble(stage)
            stage.heal()

    allowed, env = dict[str, str](), dict[str, str]()
    for mix in mixes:
        allowed |= mix.allowed
        env |= mix.env
    return mixes[0]._replace(trouble=trouble, allowed=allowed, env=env | QUICK, visit_s=min(m.visit_s for m in mixes))


def refusals(mix: Mix, errors: Mapping[str, int]) -> dict[str, int]:
    """Return the errors that a mix does not allow."""
    return _beyond(mix.rare, _unusual(mix, errors))


def rare(mix: Mix, errors: Mapping[str, int]) -> int:
    """Return how many errors are of those that a mix allows for few calls."""
    return sum(_unusual(mix, errors).values()) - sum(refusals(mix, errors).values())


def rare_max(calls: int) -> int:
    """Return how many of so many calls are few: a share of them, and one in the shortest trial."""
    return 1 + int(RARE_SHARE * calls)


def _unusual(mix: Mix, errors: Mapping[str, int]) -> dict[str, int]:
    return _beyond({**ALWAYS, **mix.allowed}, errors)


def _beyond(allowed: Allowed, errors: Mapping[str, int]) -> dict[str, int]:
    return {
        words: count
        for words, count in errors.items()
        if words not in allowed and f"* {words.partition(' ')[2]}" not in allowed
    }
