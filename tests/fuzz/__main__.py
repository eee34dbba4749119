"""Fuzz targets in turn, or several at once, and print what came of it."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.campaign import Result, add_totals, minimise, run
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=TARGETS, help="one of them; may be repeated (all)")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (1)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once (1)")
    parser.add_argument("--totals", type=Path, help="a JSON file that adds up the counts of all runs")
    parser.add_argument("--plain", action="store_true", help="change the corpus at random; faster, and learns nothing")
    parser.add_argument("--minimise", action="store_true", help="then make the corpus of the repository anew")
    chosen = parser.parse_args()
    plain = chosen.plain or find_spec("atheris") is None
    if plain and not chosen.plain:
        print("without atheris, which comes for CPython on Linux x86_64 only: inputs are changed at random")
    targets = chosen.target or list(TARGETS)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        results = list(pool.map(lambda target: run(target, chosen.minutes * 60, plain=plain), targets))
    _show(results)
    if chosen.totals is not None:
        totals = add_totals(chosen.totals, results)
        print(f"inputs in all runs so far: {sum(entry['inputs'] for entry in totals.values()):,}")
    if chosen.minimise and not plain:
        for target in targets:
            print(f"corpus of {target}: {minimise(target)} files")
    return 1 if any(result.escapes for result in results) else 0


def _show(results: list[Result]) -> None:
    print(f"{'target':<20} {'inputs':>13} {'inputs/s':>10} {'coverage':>9} {'features':>9} {'escapes':>8}")
    for each in results:
        rate = each.inputs / max(each.seconds, 0.001)
        print(
            f"{each.target:<20} {each.inputs:>13,} {rate:>10,.0f} {each.coverage:>9} {each.features:>9} "
            f"{len(each.escapes):>8}"
        )
    print(f"{'all':<20} {sum(each.inputs for each in results):>13,}")
    for path in (path for each in results for path in each.escapes):
        print(f"escape: {path}")


if __name__ == "__main__":
    sys.exit(main())
