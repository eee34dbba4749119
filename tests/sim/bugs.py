"""Bugs planted into the real code, to see whether the oracle finds them. ``python -m tests.sim.bugs`` prints a table.

Each is a small change of one method's source text, of the kind that a tired person makes; where the text is not in the
method any more, planting it fails, so that the list stays true.
"""

from __future__ import annotations

import argparse
import inspect
import textwrap
import time
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.sim.planted import BUGS, Bug, Change
from tests.sim.run import run_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAMED = {bug.name: bug for bug in BUGS}

SEEDS_MAX = 10_000
"""Within so many seeds each bug must be found."""


class Found(NamedTuple):
    """How a bug was found: after how many seeds, by which invariant, and what that said; None if it was not."""

    bug: str
    seeds: int
    seed: int
    invariant: str | None
    text: str
    seconds: float


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Have the bug in the code meanwhile."""
    owner, name = bug.change.owner, bug.change.name
    before = vars(owner)[name]
    setattr(owner, name, _changed(bug.change))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _changed(change: Change) -> Any:
    if change.old is None:
        return change.new
    original = vars(change.owner)[change.name]
    function = original.fget if isinstance(original, property) else original
    source = textwrap.dedent(inspect.getsource(function))
    if change.old not in source:
        raise LookupError(f"{function.__qualname__} has no {change.old!r} any more: plant this bug anew")
    source = "from __future__ import annotations\n" + source.replace(change.old, change.new)
    scope: dict[str, Any] = {}
    exec(compile(source, f"<{change.name} with a bug>", "exec"), function.__globals__, scope)
    return scope[change.name]


def hunt(bug: Bug, first: int = 0, seeds_max: int = SEEDS_MAX) -> Found:
    """Run seeds until the bug is found."""
    began = time.monotonic()
    with planted(bug):
        for count in range(1, seeds_max + 1):
            failure = run_seed(first + count - 1).failure
            if failure is not None:
                kind, _, text = failure.partition(": ")
                invariant, _, text = text.partition(": ")
                name = invariant if kind == "Violation" else f"no_exception ({kind})"
                name = "healed" if kind == "StuckError" else name
                return Found(bug.name, count, first + count - 1, name, text, time.monotonic() - began)
    return Found(bug.name, seeds_max, -1, None, "", time.monotonic() - began)


def by_oracle(found: Found) -> bool:
    """Whether an invariant told, and not just an exception of code that the bug broke."""
    return found.invariant is not None and not found.invariant.startswith("no_exception")


def row(found: Found) -> str:
    """Return the line of the table."""
    name = found.invariant or "NOT FOUND"
    sentence = NAMED[found.bug].sentence
    return f"{found.bug:<22} {name:<20} {found.seeds:>5} seeds, last {found.seed:>5}  {sentence}"


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0 if each bug was found by the oracle."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.bugs", description=__doc__)
    parser.add_argument("names", nargs="*", help="bugs; all if none is named")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="how many at most for each")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--text", action="store_true", help="print what the oracle said")
    options = parser.parse_args(given)
    chosen = [bug for bug in BUGS if not options.names or bug.name in options.names]
    found = []
    with get_context("fork").Pool(options.jobs) as pool:
        tasks = [(bug.name, options.first, options.seeds) for bug in chosen]
        for each in pool.imap(_hunt, tasks, chunksize=1):
            found.append(each)
            print(row(each), flush=True)
            if options.text:
                print(f"    {each.text}", flush=True)
    good = sum(map(by_oracle, found))
    print(f"{good} of {len(found)} planted bugs found by the oracle")
    return 0 if good == len(found) else 1


def _hunt(task: tuple[str, int, int]) -> Any:
    name, first, seeds_max = task
    return hunt(NAMED[name], first, seeds_max)


if __name__ == "__main__":
    raise SystemExit(main())
