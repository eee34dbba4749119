"""A real mesh for the tests of the commands: supervisord, broker and two workers in a short run directory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_shell import TOP, Shell, changed_conf
from slow_text import SLOW_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EMBED = ("embed-0", "embed-1")


@pytest.fixture(scope="session")
def make_shell() -> Iterator[Callable[..., Shell]]:
    """Make shells with a short run directory (or, without one, the default in a fresh HOME); stop their meshes."""
    shells: list[Shell] = []
    folders: list[Path] = []

    def make(*, default_run_dir: bool = False) -> Shell:
        folder = Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
        folders.append(folder)
        home = folder / "home"
        home.mkdir()
        shells.append(Shell(None if default_run_dir else folder / "run", home))
        return shells[-1]

    yield make
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Shell.clean_up, shells))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lasting_mesh(make_shell: Callable[..., Shell]) -> Shell:
    """A mesh with two embed workers that is up for the whole session."""
    shell = make_shell()
    shell.good("up", "--detach")
    return shell


@pytest.fixture
def mesh(lasting_mesh: Shell) -> Shell:
    """That mesh, once it is whole again after whatever the test before did to it."""
    lasting_mesh.wait_ready(*EMBED)
    return lasting_mesh


@pytest.fixture
def no_mesh(make_shell: Callable[..., Shell]) -> Shell:
    """A run directory with nothing in it."""
    return make_shell()


@pytest.fixture(scope="session")
def echo_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conf of the checkout with workers that start faster."""
    return changed_conf(tmp_path_factory.mktemp("conf"), "--engine embed", "--engine echo")


@pytest.fixture(scope="session")
def lasting_odd_mesh(make_shell: Callable[..., Shell], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A mesh whose two workers run ``odd_engine``."""
    shell = make_shell()
    shell.env["PYTHONPATH"] = str(Path(__file__).parent)
    conf = changed_conf(tmp_path_factory.mktemp("odd"), "--engine embed", "--engine odd_engine:Odd")
    # With no job beside the one that is computed, no other is blamed for the death of a worker.
    shell.env["MLX_MESH_BROKER_PREFETCH"] = "0"
    shell.good("up", "--detach", "--conf", conf)
    return shell


@pytest.fixture
def odd_mesh(lasting_odd_mesh: Shell) -> Shell:
    """That mesh, once workers that the test before has ended are back."""
    lasting_odd_mesh.wait_ready(*EMBED)
    return lasting_odd_mesh


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama in mlx-lm's own format."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    subprocess.run([sys.executable, "-m", "benchmarks.llama", folder, "--size", "tiny"], cwd=TOP, check=True)
    return folder


@pytest.fixture(scope="session")
def plain_llama(llama: Path) -> Path:
    """The same under another name, without a chat template."""
    folder = llama.with_name("plain-llama")
    shutil.copytree(llama, folder)
    path = folder / "tokenizer_config.json"
    described = json.loads(path.read_text())
    del described["chat_template"]
    path.write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="session")
def lasting_text_mesh(make_shell: Callable[..., Shell], llama: Path, plain_llama: Path, echo_conf: Path) -> Shell:
    """A mesh with a worker for text by two models, which was named a relative path for one of them."""
    shell = make_shell()
    shell.env["PYTHONPATH"] = str(Path(__file__).parent)
    shell.cwd = llama.parent
    conf = echo_conf.with_name("slow_text.conf")
    conf.write_text(echo_conf.read_text().replace("--engine generate", "--engine slow_text:SlowText"))
    shell.good("up", "--detach", "--conf", conf, "--generate", f"{llama.name},{plain_llama}")
    shell.cwd = shell.home
    return shell


@pytest.fixture
def text_mesh(lasting_text_mesh: Shell) -> Shell:
    """That mesh, once it is whole again after whatever the test before did to it."""
    lasting_text_mesh.wait_ready(*EMBED, "generate-0")
    return lasting_text_mesh


@pytest.fixture
def slow_text(text_mesh: Shell) -> Iterator[Callable[[], None]]:
    """Texts of that mesh take so long that a busy machine does not miss their middle, until this is called."""
    slow = text_mesh.run_dir / SLOW_FILE
    slow.touch()
    yield lambda: slow.unlink(missing_ok=True)
    slow.unlink(missing_ok=True)
