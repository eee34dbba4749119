"""What the test files of the simulator share: a part of the suite's seeds, run once, and what became of them."""

from __future__ import annotations

import os
from collections import Counter
from typing import NamedTuple

from tests.sim.reached import missing, table
from tests.sim.run import run_many

SEEDS = int(os.environ.get("MLX_MESH_SIM_SEEDS", "60"))
"""Of each of the two files that run seeds, so that two processes share them. With 1,000 they take minutes."""

REQUESTS_MIN = 2000 * SEEDS
"""Simulated requests of as many seeds, at least."""

ALL_REACHED_SEEDS = 1000
"""With as many, everything that there is comes about; with fewer, what is rare may not."""


class Summary(NamedTuple):
    """What became of some seeds."""

    requests: int
    failures: list[str]
    reached: Counter[str]

    def check(self) -> None:
        """Fail unless all promises were kept, enough was simulated, and, of many seeds, everything was reached."""
        assert [] == self.failures
        assert SEEDS < ALL_REACHED_SEEDS or [] == missing(self.reached), table(self.reached)
        assert self.requests >= REQUESTS_MIN


def simulate(first: int, count: int = SEEDS) -> Summary:
    """Run seeds in this process; a failure tells its seed, with which to replay and shrink it."""
    requests, failures, reached = 0, [], Counter[str]()
    for result in run_many(first, count):
        requests += result.requests
        reached.update(result.reached)
        if result.failure is not None:
            failures.append(f"python -m tests.sim --replay {result.seed}: {result.failure}")
    return Summary(requests, failures, reached)
