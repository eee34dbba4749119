"""``python -m tests.abuse [--only NAME] [--seconds N] [--list]``: every attack on a broker of its own, as a table."""

from __future__ import annotations

import argparse
import sys

from tests.abuse.target import ATTACKS
from tests.abuse.trial import Outcome, trial

SECONDS = 15.0
HEADS = ("attack", "done", "calls", "gap ms", "longer ms", "machine ms", "peak MiB", "left MiB", "fds", "settled s")


def row(outcome: Outcome) -> str:
    """Return one line of the table."""
    times = (round(1e3 * each, 1) for each in (outcome.gap_s, outcome.longer_s, outcome.machine_s))
    sizes = (each >> 20 for each in (outcome.rss_peak, outcome.rss_left))
    cells = (outcome.name, outcome.done, outcome.calls, *times, *sizes, outcome.fds_left, round(outcome.settled_s, 1))
    return line(cells)


def line(cells: tuple[object, ...]) -> str:
    return f"{cells[0]!s:<28}" + "".join(f"{each!s:>11}" for each in cells[1:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="an attack, or the beginning of its name")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each attack; default {SECONDS:g}")
    parser.add_argument("--list", action="store_true", help="say what there is, and what is counted")
    args = parser.parse_args()
    chosen = [name for name in ATTACKS if not args.only or name.startswith(tuple(args.only))]
    if not chosen:
        parser.error(f"no attack begins with {' or '.join(args.only)}; there are: {', '.join(ATTACKS)}")
    if args.list:
        print("\n".join(f"{name:<28} counts {ATTACKS[name].unit}" for name in chosen))
        return 0
    print(line(HEADS), flush=True)
    bad = 0
    for name in chosen:
        outcome = trial(name, args.seconds)
        print(row(outcome), flush=True)
        for fault in outcome.faults:
            bad += 1
            print(f"  WRONG: {fault}", flush=True)
    print(f"{len(chosen)} attacks, {bad} faults")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
