"""What kind of world a seed has: which features are on, how many of everything, how fast and how bad."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

FEATURES = (
    "streams", "resumes", "pure_ops", "lanes", "at_most_once", "affinity", "cuts", "stalls", "crashes", "leaves",
    "broker_crashes", "vanishes", "pauses", "broker_pauses", "jumps", "freezes", "slowness", "forging", "overlimit",
    "garbage", "poison", "engine_errors", "cancels", "slow_readers", "tight_deadlines", "drains", "guard", "trims",
    "small_caps", "pid_watch", "recorder", "strangers", "loading", "statuses", "clogs",
)  # fmt: skip


@dataclass(frozen=True)
class WorkerPlan:
    """One worker's place."""

    slots: int = 1
    ops: tuple[str, ...] = ("echo", "pure", "text")
    pure: tuple[str, ...] = ("pure",)
    models: tuple[str, ...] = ()
    local: bool = True
    bulk_slots: int = 0
    load_s: float = 0.1

    @property
    def warm(self) -> tuple[str, ...]:
        """Models that are loaded: all of them."""
        return self.models


@dataclass(frozen=True)
class Swarm:
    """All that a world is besides its events. Times are in seconds.

    Attributes:
        delay: of messages between machines: the least, what may come on top, and how seldom that is (a power).
        cost_s: mean time that a request computes.
        load: of the workers, as a multiple of what they can do.
        config: of the broker, as pairs.
        on: features that are on.
        clog_messages: so many that wait for one client are too many; 0 if there is no bound.
    """

    seed: int = 0
    duration_s: float = 30.0
    workers: tuple[WorkerPlan, ...] = (WorkerPlan(),)
    clients: int = 1
    models: tuple[str, ...] = ("m0",)
    requests: int = 100
    load: float = 0.5
    cost_s: float = 0.01
    delay: tuple[float, float, int] = (1e-4, 1e-4, 1)
    config: tuple[tuple[str, Any], ...] = ()
    on: frozenset[str] = frozenset()
    codec: bool = False
    resumes: bool = True
    pid_watch: bool = True
    recorder: bool = True
    overlimit: bool = False
    forging: bool = False
    clog_messages: int = 0


def draw(seed: int) -> Swarm:
    """Return the swarm of a seed."""
    random = Random(f"swarm/{seed}")
    density = random.choice((0.15, 0.3, 0.5))
    on = frozenset(name for name in FEATURES if random.random() < density)
    models = tuple(f"m{number}" for number in range(random.randint(1, 4)))
    workers = _workers(random, on, models)
    slots = sum(worker.slots for worker in workers)
    load = random.choice((0.2, 0.5, 0.8, 1.0, 1.5, 3.0))
    requests = random.choice((500, 1500, 2500, 4000, 4000))
    duration_s = random.uniform(20.0, 120.0)
    config = _config(random, on, Random(f"stalls/{seed}"))
    # A request that computes for longer than a worker may stall is no fault of anybody's, only of the settings.
    cost_s = min(load * slots * duration_s / requests, dict(config).get("stall_s", 30.0) / 4)
    return Swarm(
        seed=seed,
        duration_s=duration_s,
        workers=workers,
        clients=random.randint(1, 12),
        models=models,
        requests=requests,
        load=load,
        cost_s=cost_s,
        delay=random.choice(
            ((5e-5, 2e-4, 1), (5e-5, 2e-4, 1), (2e-4, 2e-3, 2), (1e-3, 0.1, 4), (1e-3, 1.0, 16), (1e-3, 5.0, 32))
        ),
        config=config,
        on=on,
        codec=random.random() < 0.02,
        resumes=random.random() < 0.7,
        pid_watch="pid_watch" in on or random.random() < 0.5,
        recorder="recorder" in on or random.random() < 0.5,
        overlimit="overlimit" in on,
        forging="forging" in on,
        clog_messages=random.choice((20, 100)) if "clogs" in on else 0,
    )


def _workers(random: Random, on: frozenset[str], models: tuple[str, ...]) -> tuple[WorkerPlan, ...]:
    count = random.choice((1, 2, 2, 3, 4, 4, 6, 8, 16))
    slots = random.choice((1, 1, 2, 4, 8))
    sorts = random.choice(("all", "any", "split", "mixed"))
    remote = random.choice((0.0, 0.0, 0.5, 1.0))
    plans = []
    for number in range(count):
        if sorts == "any" or (sorts == "mixed" and random.random() < 0.3):
            own: tuple[str, ...] = ()
        elif sorts == "all" or number == 0:
            own = models
        else:
            own = tuple(random.sample(models, random.randint(1, len(models))))
        plans.append(
            WorkerPlan(
                slots=slots if random.random() < 0.7 else random.randint(1, 8),
                pure=("pure",) if random.random() < 0.9 else (),
                models=own,
                local=random.random() >= remote,
                bulk_slots=random.choice((0, 0, 0, 1)),
                load_s=random.choice((0.1, 1.0, 5.0, 20.0)) if "loading" in on else 0.05,
            )
        )
    return tuple(plans)


_CONFIG: dict[str, tuple[Any, ...]] = {
    "prefetch": (0, 1, 3),
    "deaths_max": (1, 3),
    "attempts_max": (2, 5, 50),
    "rejoin_s": (0.0, 1.0, 20.0),
    "away_s": (0.5, 20.0),
    "quarantine_s": (0.0, 5.0, 600.0),
    "cache_max_bytes": (0, 4096, 65536),
    "cache_ttl_s": (0.0, 1.0, 10.0),
    "single_flight": (False,),
    "credit_s": (1.0, 3.0, 30.0),
    "stall_s": (4.0, 10.0, 60.0),
    "load_max_s": (2.0, 30.0),
    "session_idle_s": (10.0, 35.0, 120.0),
}
_SMALL: dict[str, tuple[Any, ...]] = {
    "queue_max_requests": (1, 3, 16),
    "queue_max_bytes": (64, 500, 5000),
    "client_max_outstanding": (1, 2, 8),
    "client_max_request_bytes": (100, 5000),
    "requests_max_bytes": (20_000, 100_000),
    "client_max_bytes": (300, 3000),
}


def _config(random: Random, on: frozenset[str], stalls: Random) -> tuple[tuple[str, Any], ...]:
    """Draw the broker's settings: mostly the defaults; beats, and what is judged by them, all slower or quicker."""
    config = {name: random.choice(values) for name, values in _CONFIG.items() if random.random() < 0.15}
    if "small_caps" in on:
        config.update({name: random.choice(values) for name, values in _SMALL.items() if random.random() < 0.5})
    if "freezes" in on and stalls.random() < 0.8:
        config["stall_s"] = stalls.choice((1.0, 2.0, 5.0))
    beat_s = random.choice((0.5, 1.0, 1.0, 2.0, 4.0))
    config.update(beat_s=beat_s, suspect_s=3 * beat_s, lost_s=5 * beat_s, lost_remote_s=15 * beat_s)
    if random.random() < 0.3:
        config.update(ping_s=0.3, silent_s=1.5)
    return tuple(sorted(config.items()))
