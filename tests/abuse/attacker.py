"""One process of one attack: ``python -m tests.abuse.attacker NAME TARGET SECONDS``; prints how often it did so."""

from __future__ import annotations

import os
import sys
import time

from tests.abuse import connections, messages_sent, services  # noqa: F401  they enter their attacks into the table
from tests.abuse.target import ATTACKS, Target

NICE = 10
"""Attackers come from elsewhere; here they must not take the broker's core away."""

LONGER = (1, 2, 4, 8)
"""How many times as long it is tried, if nothing could be done until then on a machine that did other things."""


def main() -> int:
    os.nice(NICE)
    _, name, told, seconds = sys.argv
    target, done = Target.decode(told), 0
    for longer in LONGER:
        done = ATTACKS[name].run(target._replace(ends=time.monotonic() + longer * float(seconds)))
        if done:
            break
    print(done, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
