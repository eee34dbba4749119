"""``python -m benchmarks [rpc embed generate coldstart scale guard curve node report] [--quick] [--out DIR]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.progress import progress
from benchmarks.report import publish, table
from benchmarks.results import Result

BENCHMARKS = ("rpc", "embed", "generate", "coldstart", "scale", "guard", "curve", "node")
RESULTS = ROOT / "benchmarks" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for and print the table; 0 even if targets were missed, since machines differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the mesh beside its peers.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(BENCHMARKS)} (default: all of these), or report: take the results that are in --out "
        "for the reference ones and write them into docs/benchmarks.md",
    )
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes; good only to see that it runs"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - {*BENCHMARKS, "report"}:
        parser.error(f"{', '.join(sorted(unknown))}: no such benchmark; there are {', '.join(BENCHMARKS)} and report")
    results: list[Result] = []
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [each for each in BENCHMARKS if each in args.names or not args.names]:
        progress(f"{name}: begins")
        module = importlib.import_module(f"benchmarks.{name}")
        results.append(module.run(args.out, quick=args.quick))
    if results:
        print(table(results))
        print(f"\nfigures and plots: {args.out}")
    if "report" in args.names:
        print(f"written: {publish(args.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
