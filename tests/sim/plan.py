"""What happens in a world: calls and faults, drawn up front as a flat list, so that a failure can be shrunk."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_mesh_broker.core.config import Config
from mlx_mesh_wire.messages import Flag
from tests.sim import bodies
from tests.sim.client import EAGER
from tests.sim.party import INFINITY
from tests.sim.scheduler import START_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sim.swarm import Swarm


UNSERVED_S = 30.0
"""Longest deadline of what nobody serves: if it may wait, it waits until then."""


BLINK_S = 0.99
"""A pause of the broker that it does not take account of. Only beats of BLINKS_BEAT_S or less are missed in it."""

BLINKS_BEAT_S = 0.5


class Event(NamedTuple):
    """Something that happens at a time of the world's clock."""

    time: float
    kind: str
    args: tuple[Any, ...] = ()


def draw(swarm: Swarm) -> list[Event]:
    """Return the events of a swarm, in order."""
    events: list[Event] = []
    for client in range(swarm.clients):
        _calls(swarm, client, events)
    for kind, faults in _FAULTS.items():
        if kind in swarm.on:
            faults(swarm, Random(f"{kind}/{swarm.seed}"), events)
    return sorted(events, key=lambda event: event.time)


def _calls(swarm: Swarm, client: int, events: list[Event]) -> None:
    """Draw what one client asks: evenly, or in bursts."""
    random = Random(f"calls/{swarm.seed}/{client}")
    count = swarm.requests // swarm.clients
    burst = random.choice((1, 1, 4, 30))
    draw_one = _Asker(swarm, client, random)
    chance = random.random
    width_s = swarm.duration_s
    at = 0.0
    for number in range(count):
        if number % burst == 0:
            at = START_S + 0.2 + width_s * chance()
        call = draw_one(1 + client + swarm.clients * number)
        events.append(Event(at, "call", (client, *call)))
        if draw_one.cancels and chance() < 0.1:
            events.append(Event(at + swarm.cost_s * 4 * chance(), "cancel", (client, call[0])))


class _Asker:
    """Draws calls of one client."""

    def __init__(self, swarm: Swarm, client: int, random: Random) -> None:
        on = swarm.on
        self.swarm = swarm
        self.random = random.random
        self.contents = random.choice((3, 30, 300))
        self.ops = ["echo"] * 6 + (["pure"] * 4 if "pure_ops" in on else []) + (["text"] if "streams" in on else [])
        self.lanes = (0, 1, 2) if "lanes" in on else (1,)
        # With a deadline of many times the load's own delays, nearly all work ends well.
        base_s = 1.0 + 20.0 * swarm.cost_s
        tight = (0.001, swarm.cost_s, 4.0 * swarm.cost_s) if "tight_deadlines" in on else ()
        self.timeouts = (base_s, 2 * base_s, 30.0, 30.0, *tight, *((3600.0,) if random.random() < 0.2 else ()))
        self.models = (*swarm.models, "")
        self.once = 0.2 if "at_most_once" in on else 0.0
        self.wait = random.choice((0.0, 0.3, 1.0))
        self.affinities = [b"a%d" % n for n in range(4)] if "affinity" in on else [b""]
        self.windows = (1, 4, 16)
        self.readers = (EAGER, EAGER, 0.01, 0.5, INFINITY) if "slow_readers" in on else (EAGER,)
        self.odd = [
            (bodies.POISON, 0.001 if "poison" in on else 0.0),
            (bodies.CRASH, 0.002 if "poison" in on else 0.0),
            (bodies.BROKEN, 0.02 if "engine_errors" in on else 0.0),
            (bodies.NO_MEMORY, 0.02 if "engine_errors" in on else 0.0),
            (bodies.BUSY, 0.02 if "engine_errors" in on else 0.0),
            (bodies.OVERSIZED, 0.02 if "overlimit" in on else 0.0),
        ]
        self.odds = sum(chance for _, chance in self.odd)
        self.strange = 0.02 if "strangers" in on else 0.0
        self.statuses = 0.003 if "statuses" in on else 0.0
        self.cancels = "cancels" in on

    def __call__(self, number: int) -> tuple[Any, ...]:
        """Return number, op, model, lane, timeout, flags, window, affinity, content, cost, kind, reader."""
        chance = self.random
        op, model, lane = _pick(self.ops, chance), _pick(self.models, chance), _pick(self.lanes, chance)
        flags = Flag.WAIT_FOR_READY if chance() < self.wait else 0
        window, read_s, content, kind = 0, EAGER, number, bodies.PLAIN
        cost_s = round(self.swarm.cost_s * (0.2 + 1.6 * chance()), 6)
        if self.once and chance() < self.once:
            flags |= Flag.AT_MOST_ONCE
        if op == "text":
            window, read_s, kind = _pick(self.windows, chance), _pick(self.readers, chance), bodies.TEXT
            flags |= Flag.RESUMABLE if chance() < 0.7 else 0
            cost_s = round(cost_s / 10, 6)
        elif op == "pure":
            content = int(chance() * self.contents)
            cost_s = self.swarm.cost_s
            flags |= Flag.FRESH if chance() < 0.1 else 0
        if self.odds and kind == bodies.PLAIN and chance() < self.odds:
            kind = self._odd_kind()
        if self.strange and chance() < self.strange:
            op, model = _pick((("nothing", model), (op, "unknown")), chance)
        elif self.statuses and chance() < self.statuses:
            op, window, kind, flags = "mesh.status", 0, bodies.PLAIN, 0
        timeout_s, affinity = _pick(self.timeouts, chance), _pick(self.affinities, chance)
        if op == "nothing" or model == "unknown":
            timeout_s = min(timeout_s, UNSERVED_S)
        return number, op, model, lane, timeout_s, flags, window, affinity, content, cost_s, kind, read_s

    def _odd_kind(self) -> int:
        left = self.random() * self.odds
        for kind, chance in self.odd:
            left -= chance
            if left < 0:
                return kind
        return bodies.PLAIN


def _pick(these: Sequence[Any], chance: Callable[[], float]) -> Any:
    """Return one of these; ``Random.choice`` would take five times as long."""
    return these[int(chance() * len(these))]


def _times(swarm: Swarm, random: Random, most: int) -> list[float]:
    """Return when a fault happens: a few times, within the time of the calls."""
    count = random.randint(1, most)
    return [START_S + random.uniform(0.1, swarm.duration_s) for _ in range(count)]


def _seconds(random: Random, most: float) -> float:
    """Return a time that is mostly short."""
    return round(most * random.random() ** random.choice((1, 3, 8)), 4)


def _party(swarm: Swarm, random: Random) -> tuple[str, int]:
    if random.random() < 0.5:
        return "worker", random.randrange(len(swarm.workers))
    return "client", random.randrange(swarm.clients)


def _cuts(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 12):
        lost = random.random() < 0.5, random.random() < 0.5
        notice_s = random.choice((0.0, 0.0, 0.5, 10.0))
        args = (*_party(swarm, random), _seconds(random, 3.0), notice_s, lost)
        events.append(Event(at, "cut", args))


def _stalls(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 8):
        args = (*_party(swarm, random), random.choice(("up", "down")), _seconds(random, 15.0), random.random() < 0.5)
        events.append(Event(at, "stall", args))


def _crashes(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 12):
        worker = random.randrange(len(swarm.workers))
        args = (worker, 0.1 + _seconds(random, 10.0), random.choice((0.0, 1.0, 20.0)), random.random() < 0.7)
        events.append(Event(at, "crash", args))


def _leaves(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 8):
        worker = random.randrange(len(swarm.workers))
        events.append(Event(at, "leave", (worker, 0.1 + _seconds(random, 5.0))))
        if random.random() < 0.2:
            events.append(Event(at + _seconds(random, 2.0), "leave", (worker, 0.5)))


def _broker_crashes(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 3):
        args = (_seconds(random, 5.0), _seconds(random, 2.0), random.random() < 0.5)
        events.append(Event(at, "broker_crash", args))


def _vanishes(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 4):
        args = (random.randrange(swarm.clients), 0.1 + _seconds(random, 5.0), random.choice((0.0, 1.0, 60.0)))
        events.append(Event(at, "vanish", (*args, random.random() < 0.3)))


def _pauses(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 8):
        role, number = _party(swarm, random)
        seconds = _seconds(random, 60.0)
        events.append(Event(at, "pause", (role, number, seconds)))
        if role == "worker":
            events += _meanwhile(swarm, number, at, seconds, "suspect_s")


def _meanwhile(swarm: Swarm, worker: int, at: float, seconds: float, judged: str) -> list[Event]:
    """Return what else happens to a worker that does not get on, and that may be suspect or stalled by then.

    ``judged`` is the setting after which it is: half of what happens comes soon after that, if there is time left.
    """
    random = Random(f"meanwhile/{swarm.seed}/{at}")
    config = Config(**dict(swarm.config))
    begins, span = getattr(config, judged), config.lost_s - config.suspect_s
    if begins < seconds and random.random() < 0.5:
        then = at + begins + min(span, seconds - begins) * random.random()
    else:
        then = at + seconds * random.random()
    if judged == "suspect_s" and config.beat_s <= BLINKS_BEAT_S and random.random() < 0.5:
        # Between two looks of the broker it is silent for so long that it was never suspect, and is lost.
        return [Event(at + begins + random.uniform(-0.25, 0.15), "pause", ("broker", 0, BLINK_S))]
    name = f"w{worker}"
    choices: list[tuple[str, tuple[Any, ...]]] = [
        ("crash", (worker, 0.5, 0.0, True)),
        ("leave", (worker, 0.5)),
        ("drain", (name, True, "operator")),
        ("pause", ("worker", worker, _seconds(random, 60.0))),
        ("reload", (worker, _seconds(random, 10.0))),
        ("cut", ("worker", worker, 0.1, 0.5, (True, True))),
        ("nothing", ()),
    ]
    if "forging" in swarm.on:
        choices += [("usurp", (worker, random.randrange(1000)))] * 2
    kind, args = random.choice(choices)
    if kind == "nothing":
        return []
    if kind == "drain":
        return [Event(then, kind, args), Event(then + _seconds(random, 20.0), kind, (name, False, "operator"))]
    return [Event(then, kind, args)]


def _broker_pauses(swarm: Swarm, random: Random, events: list[Event]) -> None:
    events += [Event(at, "pause", ("broker", 0, _seconds(random, 60.0))) for at in _times(swarm, random, 3)]


def _jumps(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 4):
        who = ("broker", 0) if random.random() < 0.3 else _party(swarm, random)
        events.append(Event(at, "jump", (*who, _seconds(random, 60.0))))


def _freezes(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 4):
        worker, seconds = random.randrange(len(swarm.workers)), _seconds(random, 60.0)
        events.append(Event(at, "freeze", (worker, seconds)))
        events += _meanwhile(swarm, worker, at, seconds, "stall_s")


def _slowness(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 4):
        args = (random.randrange(len(swarm.workers)), random.choice((2.0, 10.0)), _seconds(random, 20.0))
        events.append(Event(at, "slow", args))


def _forging(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 60):
        args = (random.randrange(len(swarm.workers)), random.randrange(8), random.randrange(1000))
        events.append(Event(at, "forge", args))


def _garbage(swarm: Swarm, random: Random, events: list[Event]) -> None:
    events += [
        Event(at, "garbage", (*_party(swarm, random), random.choice((0, 0, 1, 10**6))))
        for at in _times(swarm, random, 20)
    ]


def _drains(swarm: Swarm, random: Random, events: list[Event]) -> None:
    for at in _times(swarm, random, 8):
        worker = random.randrange(len(swarm.workers) + 1)
        name = "*" if worker == len(swarm.workers) else f"w{worker}"
        by = random.choice(("operator", "guard"))
        events.append(Event(at, "drain", (name, True, by)))
        events.append(Event(at + _seconds(random, 20.0), "drain", (name, False, by)))


def _guard(swarm: Swarm, random: Random, events: list[Event]) -> None:
    """A guard reports, is silent for a while, or for good."""
    for at in _times(swarm, random, 2):
        pause = random.choice(("", "bulk", "standard"))
        events += [Event(at + second, "guard", (pause,)) for second in range(random.randint(1, 30))]


def _trims(swarm: Swarm, random: Random, events: list[Event]) -> None:
    events += [Event(at, "trim", (random.choice(("*", "w0")), random.randrange(3))) for at in _times(swarm, random, 4)]


_FAULTS = {
    "cuts": _cuts,
    "stalls": _stalls,
    "crashes": _crashes,
    "leaves": _leaves,
    "broker_crashes": _broker_crashes,
    "vanishes": _vanishes,
    "pauses": _pauses,
    "broker_pauses": _broker_pauses,
    "jumps": _jumps,
    "freezes": _freezes,
    "slowness": _slowness,
    "forging": _forging,
    "garbage": _garbage,
    "drains": _drains,
    "guard": _guard,
    "trims": _trims,
}
