"""``python -m tests.soak [--hours N | --minutes N] [--out FOLDER]``: a verdict, all samples, and a plot.

Exits with 1 if anything grows, or if any answer was lost or wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.soak.report import save
from tests.soak.run import run
from tests.soak.verdict import lines, told

OUT = Path(__file__).parents[2] / "build" / "soak"
RECYCLE_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--recycle", type=float, default=RECYCLE_S, metavar="SECONDS", help="between two recycles")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    args = parser.parse_args()
    seconds = 3600 * args.hours + 60 * args.minutes or 3600.0
    found = run(seconds, recycle_s=args.recycle)
    fitted = lines(found.lives)
    for line in fitted:
        print(told(line))
    for what, count in found.wrong.items():
        print(f"WRONG    {count} x {what}")
    grown = [line for line in fitted if line.verdict == "GROWING"]
    calls = ", ".join(f"{count} {kind}" for kind, count in sorted(found.done.items()))
    print(f"{calls}; {found.recycles} recycles in {seconds / 60:.0f} min: {'GROWING' if grown else 'FLAT'}")
    print(f"samples and plot: {save(found, fitted, args.out)}")
    return 1 if grown or found.wrong or not fitted else 0


if __name__ == "__main__":
    sys.exit(main())
