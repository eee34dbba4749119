"""Seeds to results: one in this process, many in several."""

from __future__ import annotations

import gc
import os
import time
import traceback
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

from mlx_mesh_wire.host import resident_bytes
from tests.sim import plan, swarm
from tests.sim.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.sim.plan import Event
    from tests.sim.swarm import Swarm


class Result(NamedTuple):
    """What became of a seed.

    Attributes:
        requests: calls that were made.
        events: that the scheduler let happen.
        hash: of all that happened.
        failure: the broken promise and where; None if all were kept.
        reached: how often each transition, code and so on was reached.
        cpu_s: what it took, with drawing its events.
        ended: when it ended, by the world's clock.
        rss_bytes: what the process that ran it has in memory; 0 where that cannot be told.
    """

    seed: int
    requests: int
    events: int
    hash: int
    failure: str | None
    reached: dict[str, int]
    cpu_s: float
    ended: float
    rss_bytes: int = 0


def run_seed(seed: int) -> Result:
    """Run the world of a seed."""
    began = time.process_time()
    drawn = swarm.draw(seed)
    result = run_world(drawn, plan.draw(drawn))
    return result._replace(cpu_s=time.process_time() - began, rss_bytes=resident_bytes(os.getpid()) or 0)


def run_world(drawn: Swarm, events: Sequence[Event]) -> Result:
    """Run a world with these events."""
    began = time.process_time()
    gc.disable()  # What a world leaves goes at once, below; looking for it all the time costs a tenth.
    try:
        world = World(drawn, events)
        failure = None
        try:
            world.run()
        except AssertionError as error:
            failure = f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001  whatever core or sessions raise is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{type(error).__name__}: {error} ({where.name}, {where.filename.rpartition('/')[2]})"
        reached = dict(getattr(world.oracle, "reached", {}))
        happened = world.scheduler.happened
        cpu_s = time.process_time() - began
        return Result(drawn.seed, world.asked, happened, world.trace & 2**64 - 1, failure, reached, cpu_s, world.now)
    finally:
        gc.enable()


def replay(drawn: Swarm, events: Sequence[Event]) -> None:
    """Run a world, as pasted from a failure.

    Raises:
        AssertionError: the promise is still broken.
    """
    failure = run_world(drawn, events).failure
    if failure is not None:
        raise AssertionError(failure)


def run_many(first: int, count: int, jobs: int = 1, minutes: float = 0.0) -> Iterator[Result]:
    """Yield the results of seeds as they come; with ``minutes`` begin no more after that time."""
    until = time.monotonic() + minutes * 60 if minutes else float("inf")
    tasks = ((seed, until) for seed in range(first, first + count))
    if jobs == 1:
        yield from filter(None, map(_run_in_time, tasks))
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from filter(None, pool.imap_unordered(_run_in_time, tasks, chunksize=2))


def _run_in_time(task: tuple[int, float]) -> Result | None:
    seed, until = task
    return run_seed(seed) if time.monotonic() < until else None
