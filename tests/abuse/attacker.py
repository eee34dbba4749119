"""One process of one attack: ``python -m tests.abuse.attacker NAME TARGET SECONDS``; prints how often it did so."""

from __future__ import annotations

import os
import sys
import time

from tests.abuse import connections, messages_sent, services  # noqa: F401  they enter their attacks into the table
from tests.abuse.target import ATTACKS, Target

NICE = 10
"""Attackers come from elsewhere; here they must not take the broker's core away."""


def main() -> int:
    os.nice(NICE)
    _, name, told, seconds = sys.argv
    target = Target.decode(told)._replace(ends=time.monotonic() + float(seconds))
    print(ATTACKS[name].run(target), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
