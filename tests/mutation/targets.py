"""What is mutated, and the tests that have to notice: pure code, and tests without processes or sockets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
WIRE = "protocol/mlx_mesh_wire"
CORE = "broker/mlx_mesh_broker/core"
WORKER = "worker/mlx_mesh_worker"
GUARD = "worker/mlx_mesh_worker/guard"
CLIENT = "client/mlx_mesh"

SLOW = ("live", "process", "supervised", "memory", "at_random")
"""Parts of the names of files with tests of processes, of memory and of random histories: they take seconds each."""

LONG = (
    "tests/wire/test_codec.py::test_every_message_survives_the_wire",
    "tests/guard/test_interrupted.py::test_whenever_guards_and_brokers_die_the_last_worker_of_a_model_has_a_stand_in",
    "tests/core/test_supervision.py::test_whatever_happens_meanwhile_the_core_agrees_with_itself_and_all_is_answered_once",
)
"""Single ones of that kind."""

NOT_OF_THE_CORE = frozenset(("__init__.py", "config.py", "invariants.py"))
"""Settings, whose table in docs/ a test holds to them, and what checks the core, which planted faults check."""


class Group(NamedTuple):
    """Modules that are mutated together, with the tests that hold them."""

    name: str
    sources: list[Path]
    tests: list[Path]


def groups() -> list[Group]:
    """Return all groups."""
    wire = [f"{WIRE}/{name}.py" for name in ("body", "bundle", "errors", "fields", "header", "limits", "messages")]
    core = [path for path in sorted((ROOT / CORE).glob("*.py")) if path.name not in NOT_OF_THE_CORE]
    client = [f"{CLIENT}/{name}.py" for name in ("_agenda", "_pending", "_received", "_retry", "_session")]
    worker = [f"{WORKER}/{name}.py" for name in ("job", "runner", "sent", "session")]
    guard = ("backoff", "candidates", "growth", "ladder", "policy", "reasons", "recycling", "repair", "state", "steps")
    return [
        Group("codec", _paths(wire), _tests("wire")),
        Group("core", core, _tests("core")),
        Group("client", _paths(client), sorted((ROOT / "tests/client").glob("test_session*.py"))),
        Group("worker", _paths(worker), _tests("worker")),
        Group("policy", _paths([f"{GUARD}/{name}.py" for name in (*guard, "trend")]), _tests("guard")),
    ]


def module_name(path: Path) -> str:
    """Return the name under which a source is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[1:])


def _paths(names: list[str]) -> list[Path]:
    return [ROOT / name for name in names]


def _tests(folder: str) -> list[Path]:
    paths = sorted((ROOT / "tests" / folder).glob("test_*.py"))
    return [path for path in paths if not any(part in path.name for part in SLOW)]
