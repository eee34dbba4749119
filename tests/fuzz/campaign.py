"""Runs a target for a time, goes on after a find, and reads what libFuzzer says of itself."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

from tests.fuzz.counter import read_counter
from tests.fuzz.targets import CORPUS, corpus, seeds

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "fuzz"
ESCAPES_MAX = 5
"""A target that has so many finds in one run waits until they are looked at."""

TIMEOUT_S = 120
"""An input that takes so long by the clock is ended, as a busy machine may stand still for tens of seconds. What takes
less and too much is told by the budget, which asks for the time of the CPU.
"""

MALLOC_MAX_MB = 1024
INPUT_MAX_BYTES = {
    "header": 4200, "recorder": 4096, "keys": 1024, "zap": 512, "bundle": 1024, "wrapped": 512, "core": 2048,
    "client_session": 1024, "worker_session": 1024,
}  # fmt: skip
INPUT_BYTES = 2048
"""Longer ones cost time and reach nothing more."""

_STATE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")


class Result(NamedTuple):
    """One run of one target.

    ``calls`` of its function, ``inputs`` within them; ``coverage`` and ``features`` as libFuzzer counts them.
    """

    target: str
    calls: int
    inputs: int
    seconds: float
    coverage: int
    features: int
    escapes: tuple[Path, ...]


def run(target: str, seconds: float, *, plain: bool = False) -> Result:
    """Fuzz a target for a time, beginning with all that it has found before.

    ``plain`` does without counting branches, and learns nothing.
    """
    work = WORK / target
    kept = work / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    for data in [*seeds(target), *(path.read_bytes() for path in corpus(target))]:
        (kept / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    counter, log = work / "count", work / "log"
    counter.unlink(missing_ok=True)
    before = set(work.glob("escape-*"))
    start = time.monotonic()
    with log.open("w") as told:
        for _ in range(ESCAPES_MAX):
            left = round(seconds - (time.monotonic() - start))
            if left < 1:
                break
            if plain:
                arguments = ["tests.fuzz.plain", target, str(counter), str(left), str(kept), f"{work}/escape-"]
            else:
                arguments = ["tests.fuzz.worker", target, str(counter), *_flags(target, left), str(kept)]
            if _python(arguments, told) == 0:
                break
    took = time.monotonic() - start
    calls, inputs = read_counter(counter)
    states = _STATE.findall(log.read_text(errors="replace"))
    coverage, features = map(int, states[-1][:2]) if states else (0, 0)
    escapes = tuple(sorted(set(work.glob("escape-*")) - before))
    if not calls and not escapes:
        raise RuntimeError(f"{target} did not run; {log} says why")
    return Result(target, calls, inputs, took, coverage, features, escapes)


def minimise(target: str) -> int:
    """Put into the repository's corpus the fewest files that reach what is known to be reached; return how many.

    Files with a name that was given by hand stay: they are finds of once.
    """
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    found = WORK / target / "merged"
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    with (WORK / target / "merge.log").open("w") as told:
        flags = ["-set_cover_merge=1", "-max_len=2048"]
        counter, kept = WORK / target / "merge.count", WORK / target / "corpus"
        _python(["tests.fuzz.worker", target, str(counter), *flags, str(found), str(kept)], told)
    for path in corpus(target):
        if path.name.startswith("seen-"):
            path.unlink()
    files = sorted(found.iterdir(), key=lambda path: (path.stat().st_size, path.name))
    for path in files[:: max(1, len(files) // FILES_MAX + (len(files) % FILES_MAX > 0))]:
        data = path.read_bytes()
        name = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]
        (folder / f"seen-{name}").write_bytes(data)
    return len(corpus(target))


FILES_MAX = 24
"""Of one target in the repository: enough to reach each part of it, little enough to look at."""


def _flags(target: str, seconds: int) -> list[str]:
    return [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_MAX_BYTES.get(target, INPUT_BYTES)}",
        "-len_control=0",
        f"-timeout={TIMEOUT_S}",
        f"-malloc_limit_mb={MALLOC_MAX_MB}",
        f"-artifact_prefix={WORK / target}/escape-",
    ]


def _python(arguments: list[str], told: IO[str]) -> int:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, stdout=told, stderr=subprocess.STDOUT, check=False
    ).returncode


def add_totals(path: Path, results: list[Result]) -> dict[str, dict[str, float]]:
    """Add results to the counts in a file and return all of them, by target."""
    totals: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    for result in results:
        entry = totals.setdefault(result.target, {"inputs": 0, "calls": 0, "seconds": 0, "escapes": 0})
        entry["inputs"] += result.inputs
        entry["calls"] += result.calls
        entry["seconds"] = round(entry["seconds"] + result.seconds, 1)
        entry["escapes"] += len(result.escapes)
    path.write_text(json.dumps(totals, indent=1, sort_keys=True) + "\n")
    return totals
