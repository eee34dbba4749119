"""The built wheel in an empty environment: what it brings, what it needs, how fast it is imported."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.live import live_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
PACKAGES = ("mlx_mesh", "mlx_mesh_wire", "mlx_mesh_broker", "mlx_mesh_worker")
IMPORT_MAX_MS = 500.0
"""Generous: the machine may be busy. On a quiet one it is a tenth of that."""

HEAVY = {
    "mlx", "mlx_lm", "numpy", "tokenizers", "psutil", "prometheus_client", "supervisor", "asyncio", "multiprocessing",
    "concurrent", "ssl", "http", "urllib.request", "email", "ctypes.util", "pydoc", "unittest", "xml", "sqlite3",
    "logging", "importlib.metadata", "mlx_mesh_broker", "mlx_mesh_worker",
}  # fmt: skip


class Installed(NamedTuple):
    wheel: Path
    bin: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder that has nothing of the checkout."""
        program = [str(self.bin / command[0]), *command[1:]]
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.wheel.parent),
            "MLX_MESH_RUN_DIR": str(self.wheel.parent / "r"),
        }
        return subprocess.run(
            program, cwd=self.wheel.parent, env=env, capture_output=True, text=True, timeout=120, check=check
        )


def _quietly(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel and install it, without extras, into a fresh environment."""
    folder = tmp_path_factory.mktemp("package")
    _quietly(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("mlx_mesh-*.whl")
    _quietly(sys.executable, "-m", "venv", folder / "venv")
    _quietly(folder / "venv/bin/python", "-m", "pip", "install", "--disable-pip-version-check", wheel)
    return Installed(wheel, folder / "venv" / "bin")


def test_the_wheel_has_the_four_packages_their_types_and_the_licence_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    folders = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert set(PACKAGES) == folders
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert "mlx_mesh/cli/supervisord.conf" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if re.search(r"test|__pycache__|\.pyc$", name)]


def test_without_extras_it_brings_pyzmq_and_msgpack_only(installed: Installed) -> None:
    listed = installed.run("python", "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check").stdout
    names = {line.partition("==")[0].partition(" ")[0].lower() for line in listed.splitlines()}
    assert {"mlx-mesh", "pyzmq", "msgpack"} == names - {"pip", "setuptools", "wheel"}


def test_importing_it_loads_nothing_that_a_client_does_not_need(installed: Installed) -> None:
    code = "import sys; before = set(sys.modules); import mlx_mesh; print(*sorted(set(sys.modules) - before))"
    loaded = set(installed.run("python", "-c", code).stdout.split())
    bare = set(installed.run("python", "-c", "import zmq, sys; print(*sys.modules)").stdout.split())
    assert "mlx_mesh_wire.header" in loaded
    ours = {name for name in loaded - bare if name in HEAVY or name.split(".")[0] in HEAVY}
    assert set() == ours


def test_importing_it_takes_little_time(installed: Installed) -> None:
    def measure(code: str) -> float:
        began = time.perf_counter()
        installed.run("python", "-c", code)
        return (time.perf_counter() - began) * 1000

    measure("import mlx_mesh")  # Byte code is compiled once.
    with_it, bare = zip(*[(measure("import mlx_mesh"), measure("pass")) for _ in range(7)], strict=True)
    took = statistics.median(with_it) - statistics.median(bare)
    print(f"import mlx_mesh takes {took:.0f} ms besides the interpreter's own {statistics.median(bare):.0f} ms")
    assert took < IMPORT_MAX_MS


def test_all_that_is_exported_is_there(installed: Installed) -> None:
    code = "import mlx_mesh; print([name for name in mlx_mesh.__all__ if getattr(mlx_mesh, name, None) is None])"
    assert installed.run("python", "-c", code).stdout == "[]\n"
    assert installed.run("python", "-c", "from mlx_mesh import *; print(AsyncMesh.__name__)").stdout == "AsyncMesh\n"


def test_a_name_that_is_not_there_is_an_attribute_error(installed: Installed) -> None:
    failed = installed.run("python", "-c", "import mlx_mesh; mlx_mesh.Nothing", check=False)
    assert "AttributeError: module 'mlx_mesh' has no attribute 'Nothing'" in failed.stderr


@pytest.mark.parametrize("program", ["mlx-mesh", "mlx-mesh-broker", "mlx-mesh-worker", "mlx-mesh-guard"])
def test_each_program_is_there(installed: Installed, program: str) -> None:
    assert (installed.bin / program).exists()


def test_the_command_tells_its_version_and_what_it_can_do(installed: Installed) -> None:
    version = installed.run("mlx-mesh", "--version").stdout
    assert installed.wheel.name.split("-")[1] in version
    text = installed.run("mlx-mesh", "--help").stdout
    commands = ("up", "down", "status", "embed", "drain", "recycle", "scale", "bench", "config")
    assert [] == [name for name in commands if name not in text]
    for name in ("up", "embed", "status"):
        assert "usage: mlx-mesh" in installed.run("mlx-mesh", name, "--help").stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["mlx-mesh", "up", "--detach"], "mlx-mesh[all]"),
        (["mlx-mesh-worker", "--engine", "embed"], "mlx-mesh[worker]"),
        (["mlx-mesh-broker", "--metrics-port", "0"], "mlx-mesh[broker]"),
        (["mlx-mesh-guard"], "mlx-mesh[supervise]"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else given,
)
def test_what_needs_an_extra_names_it(installed: Installed, command: list[str], extra: str) -> None:
    failed = installed.run(*command, check=False)
    assert failed.returncode not in (0, None)
    assert extra in failed.stderr + failed.stdout, failed.stderr + failed.stdout
    assert "Traceback" not in failed.stderr


def test_the_client_calls_a_mesh_and_asks_for_numpy_only_where_it_is_needed(installed: Installed) -> None:
    with live_mesh() as mesh:
        mesh.broker()
        mesh.worker()
        code = f"""
from mlx_mesh import Mesh
with Mesh({mesh.endpoint!r}) as mesh:
    mesh.ready(["echo"])
    print(mesh.call("echo", [1, "x"]))
"""
        assert installed.run("python", "-c", code).stdout == "[1, 'x']\n"


def test_a_type_checker_sees_the_types(installed: Installed, check_types: Callable[[str], str]) -> None:
    said = check_types("from mlx_mesh import AsyncMesh, Mesh\nreveal_type(Mesh().embed('a'))\nreveal_type(AsyncMesh)\n")
    assert 'Revealed type is "mlx_mesh._results.Embeddings"' in said
    assert "AsyncMesh" in said
    assert "error" not in said


@pytest.fixture
def check_types(installed: Installed, tmp_path: Path) -> Callable[[str], str]:
    def check(code: str) -> str:
        (tmp_path / "user.py").write_text(code, encoding="utf-8")
        python = installed.bin / "python"
        command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--config-file=", "user.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False).stdout

    return check
