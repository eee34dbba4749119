"""Run mixes many times over and print what came of them; 0 if nothing was lost, doubled, wrong or hung."""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.mixes.catalogue import MIXES
from tests.faults.mixes.tally import Tally, table
from tests.faults.mixes.trial import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mixes", description=__doc__)
    parser.add_argument("--mix", nargs="+", choices=[*MIXES], default=[*MIXES], metavar="NAME", help=", ".join(MIXES))
    parser.add_argument("--runs", type=int, default=8, help="of each mix")
    parser.add_argument("--seconds", type=float, default=60.0, help="that one run is hurt")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--out", type=Path, help="file for the results, as JSON")
    parser.add_argument("--keep", type=Path, help="folder for the logs of failed runs")
    args = parser.parse_args()
    totals = {name: Tally() for name in args.mix}
    runs = [(name, seed) for seed in range(args.seed, args.seed + args.runs) for name in args.mix]
    results = []

    def one(what: tuple[str, int]) -> tuple[str, int, float, Tally]:
        name, seed = what
        began = time.monotonic()
        keep = args.keep and args.keep / f"{name}-{seed}"
        tally = run(MIXES[name], args.seconds, seed, keep)
        return name, seed, time.monotonic() - began, tally

    with ThreadPoolExecutor(args.jobs) as pool:
        for name, seed, took, tally in pool.map(one, runs):
            totals[name].add(tally)
            results.append({"mix": name, "seed": seed, "took_s": round(took, 1), **tally.as_map()})
            print(f"{name} {seed}: {'good' if tally.good else 'FAILED'} {tally.calls.total()} calls", flush=True)
            for words in tally.words:
                print(f"    {words}", flush=True)
            if args.out:
                args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    everything = Tally()
    for tally in totals.values():
        everything.add(tally)
    rows = [(name, args.runs, tally) for name, tally in totals.items()]
    print(table([*rows, ("all", len(runs), everything)]))
    print("other faults:", dict(sorted(everything.faults.items())))
    return 0 if all(tally.good for tally in totals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
