"""The quotas of a key on the command line: all actions of ``mlx-mesh keys`` that take some take the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlx_mesh.cli.output import fail
from mlx_mesh_wire import keys
from mlx_mesh_wire.messages import LANE_NAMES

if TYPE_CHECKING:
    import argparse

FLAGS = {
    "rate_per_s": "rate",
    "burst": "burst",
    "outstanding_max": "outstanding",
    "lanes": "lanes",
    "ops": "ops",
    "models": "models",
}
"""Fields of an entry by their flags."""

OF_ROLE = {"client": tuple(FLAGS), "worker": ("ops", "models"), "operator": ()}
"""What holds for whom; the broker would not look at anything else."""


def add_quotas(parser: argparse.ArgumentParser, role: str = "client") -> None:
    """Add the flags that a role may have."""
    fields = OF_ROLE[role]
    if "rate_per_s" in fields:
        parser.add_argument("--rate", type=float, metavar="N", help="requests per second; 0 is any number, the default")
        parser.add_argument("--burst", type=int, metavar="N", help="at once after a pause; 0 is one second's")
        parser.add_argument("--outstanding", type=int, metavar="N", help="without an answer yet; 0 is any number")
        parser.add_argument("--lanes", type=_names, metavar="LANES", help=f"of {','.join(LANE_NAMES)}; '' is all")
    if "ops" in fields:
        parser.add_argument("--ops", type=_names, metavar="OPS", help="with commas between; '' is all, the default")
        parser.add_argument("--models", type=_names, metavar="MODELS", help="the same")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def quotas(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was given, by the names of an entry's fields."""
    found = {name: getattr(args, flag, None) for name, flag in FLAGS.items()}
    return {name: value for name, value in found.items() if value is not None}


def changed(entry: keys.Entry, args: argparse.Namespace) -> keys.Entry:
    """Return an entry with what was given; end the program if that is nothing, or nothing for its role."""
    given = quotas(args)
    if not given:
        flags = ", ".join(f"--{FLAGS[name]}" for name in OF_ROLE[entry.role])
        fail(f"nothing is to be changed; a key for the role {entry.role} has: {flags or 'no quotas'}")
    if unfit := [name for name in given if name not in OF_ROLE[entry.role]]:
        fail(f"--{FLAGS[unfit[0]]} is not for {entry.name!r}, which is the key of a {entry.role}")
    return keys.make_entry({**asdict(entry), **given}, "quotas")
