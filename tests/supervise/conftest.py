"""A mesh whose supervisord is the operator's console: workers of two groups, one of them with two programs."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlx_mesh_wire.supervisor import Supervisor, full_name
from tests.cli.cli_shell import PATIENCE_S, TOP, Shell, wait_for

WORKERS = ("embed-0", "embed-1", "gated-0", "plain")

GATED_DRAIN_S = 80
"""So long that nobody takes a slow machine for a worker that drains."""

MIXED = f"""
[program:gated]
command = mlx-mesh-worker --engine gated_engine:Gated%(process_num)d --name gated-%(process_num)d
process_name = gated-%(process_num)d
startsecs = 0
autorestart = unexpected
exitcodes = 2,78
stopwaitsecs = {GATED_DRAIN_S}
environment = OWN="number %(process_num)d",MLX_MESH_WORKER_DRAIN_S="{GATED_DRAIN_S}"
redirect_stderr = true
stdout_logfile = gated-%(process_num)d.log

[program:plain]
command = mlx-mesh-worker --engine=echo --name plain
stopwaitsecs = 40
redirect_stderr = true
stdout_logfile = plain.log

[group:mixed]
programs = gated,plain
"""


class Console(Shell):
    """A shell whose mesh has a conf of its own, and what supervisord says of its processes."""

    def __init__(self, folder: Path) -> None:
        home = folder / "home"
        home.mkdir()
        super().__init__(folder / "run", home)
        self.conf = folder / "supervisord.conf"
        self.supervisor = Supervisor(self.run_dir, timeout=PATIENCE_S)
        self.env["PYTHONPATH"] = str(Path(__file__).parent)

    def ctl(self, *args: object) -> str:
        """Run supervisorctl and return its output."""
        return self.run("supervisorctl", "-c", self.conf, *args).stdout.decode()

    def states(self, group: str = "workers") -> dict[str, str]:
        """Return the states of a group's processes."""
        return {p["name"]: p["statename"] for p in self.supervisor.look() if p["group"] == group}

    def process(self, name: str) -> dict:
        """Return what supervisord says of ``group:name``."""
        (found,) = [process for process in self.supervisor.look() if full_name(process) == name]
        return found

    def pid(self, name: str) -> int:
        """Return the pid of ``group:name``; 0 if it does not run."""
        return self.process(name)["pid"]

    def wait_running(self, *names: str) -> None:
        """Wait until these processes have been up for a second."""
        wait_for(lambda: all(self.process(name)["statename"] == "RUNNING" for name in names), f"{names} running")


def without_guard(text: str) -> str:
    """Return a conf without the guard, which would act by itself."""
    changed = re.sub(r"\[eventlistener:guard\].*?(?=\n\[)", "", text, flags=re.DOTALL)
    assert changed != text
    return changed


@pytest.fixture(scope="session")
def make_console() -> Iterator[Callable[[], Console]]:
    """Make meshes that are not started yet; stop what is left of them."""
    made: list[Console] = []

    def make() -> Console:
        folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
        console = Console(folder)
        text = without_guard((TOP / "supervisord.conf").read_text()).replace("--engine embed", "--engine echo")
        text = text.replace("identifier = mlx-mesh", 'identifier = mlx-mesh\nenvironment = SHARED="by all"')
        console.conf.write_text(text + "\n[include]\nfiles = mixed.ini\n")
        (folder / "mixed.ini").write_text(MIXED)
        made.append(console)
        return console

    yield make
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Console.clean_up, made))
    for console in made:
        shutil.rmtree(console.conf.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def lasting_console(make_console: Callable[[], Console]) -> Console:
    """A mesh that is up for the whole session."""
    console = make_console()
    console.good("up", "--detach", "--conf", console.conf)
    return console


@pytest.fixture
def console(lasting_console: Console) -> Console:
    """That mesh, once it is whole again after whatever the test before did to it."""
    lasting_console.wait_ready(*WORKERS)
    lasting_console.wait_running("workers:embed-0", "workers:embed-1", "mixed:gated-0", "mixed:plain")
    return lasting_console
