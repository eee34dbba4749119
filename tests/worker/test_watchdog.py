"""What counts as progress, and as too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from mlx_mesh_worker import watchdog as module
from mlx_mesh_worker.compute import Compute
from mlx_mesh_worker.engine import BatchEngine
from mlx_mesh_worker.record import Record
from mlx_mesh_worker.runner import Admit
from mlx_mesh_worker.settings import WorkerSettings
from mlx_mesh_worker.watchdog import Watchdog
from tests.worker.bench import Bench, job


class Same(BatchEngine):
    ops = ("same",)

    def run(self, batch: list[Any]) -> Sequence[Any]:
        return batch


class Watched:
    """A watchdog, and the runner that it looks at."""

    def __init__(self) -> None:
        settings = WorkerSettings(engine="echo", stuck_s=10.0, load_max_s=60.0)
        self.compute = Compute(settings, Record(len, int), len, int)
        self.compute.loading_since = 0.0
        self.watchdog = Watchdog(self.compute, settings)
        self.bench = Bench(Same())

    def ready(self) -> None:
        self.compute.runner = self.bench.runner


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(module, "_write_stacks", lambda: None)
    watched = Watched()
    yield watched
    watched.watchdog.close()


def test_loading_a_step_and_a_load_within_it_have_limits_of_their_own(watched: Watched) -> None:
    stuck = watched.watchdog.stuck
    assert [False, True] == [stuck(60.0), stuck(61.5)]
    watched.ready()
    assert not stuck(1000.0), "it rests"
    watched.bench.runner.step_since = 1000.0
    assert [False, True] == [stuck(1010.0), stuck(1011.5)]
    watched.bench.now = 1012.0
    with watched.bench.runner._loading():
        assert [False, False, True] == [stuck(1013.0), stuck(1072.0), stuck(1073.5)]
        watched.bench.now = 1074.0
    assert [False, False, True] == [stuck(1075.0), stuck(1084.0), stuck(1085.5)]


def test_it_looks_once_a_second(watched: Watched) -> None:
    watched.ready()
    assert not watched.watchdog.stuck(100.0)
    watched.bench.runner.step_since = 0.0
    assert not watched.watchdog.stuck(100.9)
    assert 101.0 == watched.watchdog.next_look
    assert watched.watchdog.stuck(101.0)


def test_while_a_load_lasts_every_beat_is_progress_and_none_is_ever_taken_back(watched: Watched) -> None:
    progress = watched.watchdog.progress
    assert 0 == progress(0.0)
    watched.ready()
    watched.bench.turn(Admit(job("a")))
    assert [1, 1] == [progress(1.0), progress(2.0)]
    watched.bench.now = 10.0
    with ExitStack() as load:
        load.enter_context(watched.bench.runner._loading())
        assert [2, 3, 4] == [progress(11.0), progress(69.0), progress(70.0)]
        assert [4, 4] == [progress(70.1), progress(500.0)], "it may not last longer than a load may"
    watched.bench.turn(Admit(job("b", 2)))
    assert [5, 5] == [progress(501.0), progress(502.0)]


def test_stacks_are_written_for_a_broker_that_asks_but_not_again_and_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(module, "_write_stacks", lambda: written.append("stacks"))
    monkeypatch.setattr(module, "log", lambda level, event, **fields: written.append(f"{level} {event} {fields}"))
    for now in (100.0, 101.0, 109.9):
        watched.watchdog.dump(now, "no step")
    assert ["warning stalled {'reason': 'no step'}", "stacks"] == written
    watched.watchdog.dump(110.0, "no step")
    assert 4 == len(written)
