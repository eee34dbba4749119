"""A real mesh for the tests of the commands: supervisord, broker and two workers in a short run directory."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_shell import Shell, changed_conf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
def mesh(make_shell: Callable[..., Shell]) -> Shell:
    """A mesh with two embed workers that is up for the whole session."""
    shell = make_shell()
    shell.good("up", "--detach")
    return shell


@pytest.fixture
def no_mesh(make_shell: Callable[..., Shell]) -> Shell:
    """A run directory with nothing in it."""
    return make_shell()


@pytest.fixture(scope="session")
def echo_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conf of the checkout with workers that start faster."""
    return changed_conf(tmp_path_factory.mktemp("conf"), "--engine embed", "--engine echo")


@pytest.fixture(scope="session")
def odd_mesh(make_shell: Callable[..., Shell], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A mesh whose two workers run ``odd_engine``."""
    shell = make_shell()
    shell.env["PYTHONPATH"] = str(Path(__file__).parent)
    conf = changed_conf(tmp_path_factory.mktemp("odd"), "--engine embed", "--engine odd_engine:Odd")
    shell.good("up", "--detach", "--conf", conf)
    return shell
