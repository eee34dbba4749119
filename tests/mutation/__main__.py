"""Mutation testing from the shell: ``python -m tests.mutation [--only PART] [--jobs N]``; ``make mutation``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from tests.mutation.equivalent import equivalent
from tests.mutation.exchange import Built, build
from tests.mutation.fork import Fork
from tests.mutation.memory import Memory
from tests.mutation.report import KILLED, LEAST, Scores
from tests.mutation.targets import Group, groups, module_name
from tests.mutation.trial import Verdict, try_group


def main() -> int:
    """Try the mutants; the exit status is 1 if fewer are killed than must be, or the list of equivalent ones is old."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", help="part of a module's name, or a group's")
    parser.add_argument("--again", action="store_true", help="only what was not noticed the last time")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one in N, for an estimate")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args()
    began = time.monotonic()
    work = [(group, mutants) for group in groups() if (mutants := _chosen(group, args.only)[:: args.every])]
    memory, scores, tried = Memory(), Scores(equivalent()), 0

    def told(verdict: Verdict) -> None:
        scores.add(verdict)
        memory.keep(*verdict)

    for group, mutants in work:
        known = [built for built in mutants if args.again and memory.fate(built) in KILLED]
        for built in known:
            scores.add(Verdict(built, memory.fate(built)))
        fresh = [built for built in mutants if not args.again or memory.fate(built) not in KILLED]
        tried += len(fresh)
        try:
            for name in _spread(group, fresh, args.jobs, told):
                print(f"fails without a mutant, not asked: {name}", file=sys.stderr)
        finally:
            memory.save()
    print(scores.table())
    print(f"{tried} mutants tried in {time.monotonic() - began:.0f} s")
    return 0 if scores.total() >= LEAST and (args.only or args.every > 1 or not scores.outdated()) else 1


def _chosen(group: Group, part: str) -> list[Built]:
    paths = group.sources if part in group.name else [path for path in group.sources if part in module_name(path)]
    return [built for path in paths for built in build(path)]


def _spread(group: Group, mutants: list[Built], jobs: int, told: Callable[[Verdict], None]) -> list[str]:
    """Deal a group's mutants out to processes, each of which collects its tests anew."""
    forks = [Fork(lambda tell, job=job: try_group(group, mutants[job::jobs], tell)) for job in range(jobs)]
    broken = [name for fork in forks for name in fork.result(told)]
    return sorted(set(broken))


if __name__ == "__main__":
    sys.exit(main())
