"""Whatever the tests started is gone when their run is over, however it ended."""

from __future__ import annotations

import contextlib
import os
import time

import psutil
import pytest
from hypothesis import HealthCheck, Phase, settings

MARK = "TESTS_OF_MLX_MESH"
"""A variable that all processes of a run inherit; tests that drop what begins with MLX_MESH_ leave it."""

GRACE_S = 5.0
"""For those that are on their way out."""

# So that what fails is the fault of the change; `make properties` looks at other examples. Without shrinking, which
# takes minutes: the timeout would end the process in its midst.
# No example has a time: a machine may stop in any of them.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile(
    "repeatable", settings.get_profile("patient"), derandomize=True, phases=set(Phase) - {Phase.shrink}
)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("repeatable" if config.getoption("--hypothesis-seed") is None else "patient")
    if runs_beside_others(config):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads spin, and would do so on the others' cores
    else:
        os.environ[MARK] = f"{os.getpid()} {time.time_ns()}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what a test has left running, as one does that was itself ended by its timeout."""
    if runs_beside_others(config):
        return
    _, left = psutil.wait_procs(processes_of_this_run(), GRACE_S)
    for process in left:
        with contextlib.suppress(psutil.Error):
            print(f"left running, killed: {process.pid} {' '.join(process.cmdline())}")
            process.kill()


def runs_beside_others(config: pytest.Config) -> bool:
    """Return whether this is one of the processes among which pytest-xdist deals the tests."""
    return hasattr(config, "workerinput")


def processes_of_this_run() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == os.environ[MARK]:
                found.append(process)
    return found
