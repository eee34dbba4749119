"""``python -m tests.sim``: run seeds, and shrink what fails."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.sim import invariants, plan, swarm
from tests.sim.reached import table
from tests.sim.run import Result, run_many, run_seed
from tests.sim.shrink import as_test, shrink

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_MAX = 5
"""Failures that are shrunk and printed; the others are only named."""


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no more seeds after this time")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed, and shrink its failure")
    parser.add_argument("--shrink-s", type=float, default=60.0, help="how long a failure is shrunk at most")
    parser.add_argument("--trace", action="store_true", help="with --replay: print what the core is told and decides")
    parser.add_argument("--hash", action="store_true", help="print the trace hash of each seed")
    parser.add_argument("--invariants", action="store_true", help="print what must hold, and end")
    options = parser.parse_args(given)
    if options.invariants:
        print(invariants.table())
        return 0
    if options.replay is not None:
        return _replay(options)
    return _run(options)


def _replay(options: argparse.Namespace) -> int:
    if options.trace:
        from tests.sim.tracing import trace

        result = trace(options.replay)
    else:
        result = run_seed(options.replay)
    print(swarm.draw(options.replay))
    print(f"seed {result.seed}: {result.requests} requests, {result.events} events, hash {result.hash:016x}")
    if result.failure is None:
        return 0
    _show(result, options.shrink_s)
    return 1


def _run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    failures: list[Result] = []
    reached: Counter[str] = Counter()
    requests = happened = seeds = 0
    cpu_s = shown_at = 0.0
    rss_bytes: list[int] = []
    for result in run_many(options.first, options.seeds, options.jobs, options.minutes):
        seeds += 1
        requests += result.requests
        happened += result.events
        cpu_s += result.cpu_s
        rss_bytes.append(result.rss_bytes)
        reached.update(result.reached)
        if options.hash:
            print(f"{result.seed} {result.hash:016x}")
        if result.failure is not None:
            failures.append(result)
            print(f"seed {result.seed} failed: {result.failure}", flush=True)
        if time.monotonic() - shown_at >= 1.0 and sys.stderr.isatty():
            shown_at = time.monotonic()
            print(f"\r{seeds} seeds, {requests} requests, {len(failures)} failures ", end="", file=sys.stderr)
    wall_s = time.monotonic() - began
    print(table(reached))
    print(
        f"{seeds} seeds, {requests} requests, {happened} events in {wall_s:.1f} s: "
        f"{requests / max(cpu_s, 1e-9) * 60:,.0f} requests a minute and core; {len(failures)} failures"
    )
    half = seeds // 2
    before, after = max(rss_bytes[:half], default=0), max(rss_bytes[half:], default=0)
    print(
        f"memory of a process: up to {before >> 20} MiB in the first half of the seeds, {after >> 20} MiB in the other"
    )
    for result in failures[:SHOWN_MAX]:
        _show(result, options.shrink_s)
    return 1 if failures else 0


def _show(result: Result, seconds: float) -> None:
    assert result.failure is not None
    drawn = swarm.draw(result.seed)
    drawn, events = shrink(drawn, plan.draw(drawn), result, seconds)
    print(f"\nseed {result.seed}: {result.failure}\n{len(events)} events are enough:\n")
    print(as_test(drawn, events, result.failure))


if __name__ == "__main__":
    sys.exit(main())
