"""The fast BLAS is in place before MLX, and its absence is told. In processes of their own: libraries stay loaded."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_worker.blas import FALLBACKS, KERNEL_VARIABLE, REFERENCE, better_kernel, load_blas
from tests.embed.folder import ModelFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "darwin", reason="MLX brings its own BLAS on macOS"),
]

needs_fast = pytest.mark.skipif(load_blas() == REFERENCE, reason="no OpenBLAS or MKL on this machine")

LOAD = """
import json, sys
seen = []

def watch(event, args):
    # Python's own audit events: libraries opened by ctypes, modules on their way in.
    if event == "ctypes.dlopen" and args[0]: seen.append(str(args[0]))
    if event == "import" and args[0] == "mlx.core": seen.append("mlx.core")

sys.addaudithook(watch)
from mlx_mesh_wire.logs import set_up
from mlx_mesh_worker import blas
from mlx_mesh_worker.engines.embed import EmbedEngine
set_up("debug", "json")
assert "mlx.core" not in sys.modules
if len(sys.argv) > 2: blas.LIBRARIES = tuple(sys.argv[2:])
engine = EmbedEngine(sys.argv[1])
engine.load()
engine.warm()
print(json.dumps(seen))
"""


def load(folder: Path, *libraries: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Load a model in a new process; return what was loaded in order, and its log."""
    command = [sys.executable, "-c", LOAD, str(folder), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    *log, seen = done.stdout.splitlines()
    lines = [*log, *done.stderr.splitlines()]
    return json.loads(seen), [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ModelFolder(tmp_path / "small").path


@needs_fast
def test_a_fast_blas_is_loaded_before_mlx_and_named_in_the_log(folder: Path) -> None:
    seen, log = load(folder)
    name = load_blas()
    assert seen.index(name) < seen.index("mlx.core")
    assert [name] == [line["library"] for line in log if line["event"] == "blas"]
    assert "slow_blas" not in [line["event"] for line in log]


@needs_fast
def test_its_matrix_product_is_the_one_that_libraries_loaded_later_are_bound_to() -> None:
    code = """
import ctypes
from mlx_mesh_worker.blas import load_blas
name = load_blas()
address = lambda library: ctypes.cast(library.cblas_sgemm, ctypes.c_void_p).value
assert address(ctypes.CDLL(None)) == address(ctypes.CDLL(name)), "the global symbol is another"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


def test_without_a_fast_blas_the_log_warns_and_says_what_to_install(folder: Path) -> None:
    seen, log = load(folder, "libno-such-blas.so.0", "libnor-this.so")
    assert ["libno-such-blas.so.0", "libnor-this.so"] == [each for each in seen if each.startswith("libno")]
    (warning,) = [line for line in log if line["event"] == "slow_blas"]
    assert "warning" == warning["level"]
    assert "libopenblas0-pthread" in warning["hint"]


@needs_fast
def test_the_first_library_that_is_there_is_taken(folder: Path) -> None:
    name = load_blas()
    _, log = load(folder, "libno-such-blas.so.0", name, "libnor-this.so")
    assert [name] == [line["library"] for line in log if line["event"] == "blas"]


@pytest.mark.parametrize(
    ("flags", "kernel"),
    [
        ({"sse2", "avx"}, ""),
        ({"avx2"}, ""),
        ({"avx2", "fma"}, "Haswell"),
        ({"avx2", "fma", "avx512f"}, "Haswell"),
        ({"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "SkylakeX"),
    ],
)
def test_the_fastest_kernel_is_one_that_the_processor_has_all_instructions_for(flags: set[str], kernel: str) -> None:
    assert kernel == better_kernel(flags)


KERNEL = """
import ctypes, sys
from mlx_mesh_worker import blas
if blas.load_blas() != blas.OPENBLAS: sys.exit()
name = ctypes.CDLL(blas.OPENBLAS).openblas_get_corename
name.restype = ctypes.c_char_p
print(name().decode(), blas.better_kernel(blas._cpu_flags()))
"""


def kernel_in_use(**variables: str) -> list[str]:
    env = {key: value for key, value in os.environ.items() if key != KERNEL_VARIABLE} | variables
    done = subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True, check=True, env=env)
    return done.stdout.split(" ")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the kernels are those of x86-64")
def test_openblas_does_not_fall_back_to_an_old_kernel_on_a_processor_newer_than_itself() -> None:
    found = kernel_in_use()
    if len(found) == 2 and found[1].strip():
        assert found[0] not in FALLBACKS


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the kernels are those of x86-64")
def test_a_kernel_that_the_user_chose_stands() -> None:
    assert kernel_in_use(**{KERNEL_VARIABLE: "Nehalem"})[0] in ("Nehalem", "\n", "")
