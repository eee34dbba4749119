"""Arrows between packages point one way, and each library is imported in its place only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "mlx_mesh_wire": "protocol",
    "mlx_mesh_broker": "broker",
    "mlx_mesh_worker": "worker",
    "mlx_mesh": "client",
}
MAY_IMPORT = {
    "msgpack": {"mlx_mesh_wire.header", "mlx_mesh_wire.body"},
    "zmq": {
        "mlx_mesh_wire.transport",
        "mlx_mesh_wire.handshake",
        "mlx_mesh_broker.main",
        "mlx_mesh_broker.outlets",
        "mlx_mesh_broker.operators",
        "mlx_mesh_broker.watchers",
        "mlx_mesh_broker.sockets",
        "mlx_mesh_broker.doors",
        "mlx_mesh_worker.connection",
        "mlx_mesh._link",
        "mlx_mesh_wire.control",
    },
    "mlx": {"mlx_mesh_worker.engines"},
    "mlx_lm": {"mlx_mesh_worker.engines"},
    "prometheus_client": {"mlx_mesh_broker.exporter", "mlx_mesh_broker.http"},
}
"""Library to the modules that may import it; a package stands for all its modules. Adding one is a decision."""

PURE = (
    "mlx_mesh_broker.core",
    "mlx_mesh_worker.session",
    "mlx_mesh_worker.session_actions",
    "mlx_mesh_worker.sent",
    "mlx_mesh_worker.runner",
    *(
        f"mlx_mesh_worker.guard.{name}"
        for name in (
            "actions",
            "candidates",
            "growth",
            "ladder",
            "listener",
            "policy",
            "reasons",
            "recycling",
            "repair",
            "reporting",
            "samples",
            "state",
            "steps",
            "trend",
        )
    ),
    "mlx_mesh._session",
    "mlx_mesh._retry",
)
IMPURE_MODULES = {"time", "socket", "threading", "random", "secrets", "select", "asyncio", "os", "subprocess", "zmq"}


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def inside(module: str, places: set[str] | tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


@pytest.mark.parametrize("module", MODULES)
def test_a_package_imports_itself_and_the_wire_package_of_ours(module: str) -> None:
    own = module.partition(".")[0]
    ours = {name.partition(".")[0] for name in imports(MODULES[module])} & FOLDERS.keys()
    assert ours <= {own, "mlx_mesh_wire"}


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_imported_where_they_belong(module: str) -> None:
    for name in imports(MODULES[module]):
        places = MAY_IMPORT.get(name.partition(".")[0])
        assert places is None or inside(module, places), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if inside(name, PURE)])
def test_the_pure_parts_import_nothing_that_has_a_life_of_its_own(module: str) -> None:
    assert set() == {name.partition(".")[0] for name in imports(MODULES[module])} & IMPURE_MODULES


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("mlx_mesh_broker.core")])
def test_the_core_knows_no_shell(module: str) -> None:
    ours = {name for name in imports(MODULES[module]) if name.startswith("mlx_mesh_broker")}
    assert all(name.startswith("mlx_mesh_broker.core") for name in ours)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("mlx_mesh_worker.guard")])
def test_the_guard_knows_nothing_of_engines(module: str) -> None:
    ours = {name for name in imports(MODULES[module]) if name.startswith("mlx_mesh_worker")}
    assert all(name.startswith("mlx_mesh_worker.guard") for name in ours)


def test_the_guard_never_loads_mlx() -> None:
    code = "import sys, mlx_mesh_worker.guard.main; print(sorted({'mlx', 'mlx_lm', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout


def test_nothing_imports_a_shell_but_the_program_that_runs_it() -> None:
    for module, path in MODULES.items():
        for name in imports(path):
            if name.endswith((".shell", ".main")) and name.partition(".")[0] in FOLDERS:
                assert module.endswith((".main", ".cli")), f"{module} imports {name}"


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_the_top_folders_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", FOLDERS)
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / FOLDERS[package] / package / "py.typed").exists()


@pytest.mark.parametrize("package", ["mlx_mesh", "mlx_mesh_wire"])
def test_every_public_name_exists(package: str) -> None:
    module = __import__(package)
    assert sorted(module.__all__, key=str.lower) == sorted(set(module.__all__), key=str.lower)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        _ = module.no_such_name
