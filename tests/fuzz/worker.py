"""One target under libFuzzer, in a process of its own: ``python -m tests.fuzz.worker TARGET COUNTER FLAGS...``.

The counter is a file of two integers that outlives the process: calls, and inputs within them.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

PACKAGES = ["mlx_mesh", "mlx_mesh_wire", "mlx_mesh_broker", "mlx_mesh_worker"]
"""Only what is ours counts its branches: the targets themselves would only slow down."""

SLOWER = 3
"""Code that counts its branches takes so many times as long at most."""


def main() -> None:
    import atheris

    name, counter, *flags = sys.argv[1:]
    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import load

        one = load(name)
    from tests.fuzz.budget import TIME_MAX_S, Budget
    from tests.fuzz.counter import open_counter

    run = Budget(one, TIME_MAX_S * SLOWER).run
    counts = open_counter(Path(counter))

    def count(data: bytes) -> None:
        inputs = run(data)
        counts[0] += 1
        counts[1] += inputs

    # To merge corpora libFuzzer runs itself again by this name, through a shell.
    again = shlex.join([sys.executable, "-m", "tests.fuzz.worker", name, counter])
    atheris.Setup([again, *flags], count)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
