"""The files of the broker's ipc sockets are deleted or taken while it runs; who is new gets in nevertheless."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_mesh import Mesh
from mlx_mesh_broker.lockfile import AlreadyRunningError, RunDirLock
from tests.live import LiveMesh, live_mesh, standing_still, until

FRONTEND, BACKEND = "frontend.sock", "backend.sock"


@pytest.fixture
def own() -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        yield mesh


def bound_anew(mesh: LiveMesh, count: int) -> None:
    """Wait until the broker has bound so many paths again."""
    until(lambda: mesh.log("broker").count("done=bound anew") == count, "paths that are bound anew")


def test_who_is_new_gets_in_after_paths_were_deleted_and_who_is_connected_stays(own: LiveMesh) -> None:
    extra = own.dir / "extra.sock"
    own.broker("--listen", f"ipc://{extra}")
    own.worker()
    with Mesh(own.endpoint) as old:
        old.ready(["echo"])
        epoch = old.status()["epoch"]
        for name in (FRONTEND, BACKEND, "control.sock", "events.sock", "broker.lock", extra.name):
            (own.dir / name).unlink()
        bound_anew(own, 5)
        own.worker("echo", "new")
        with Mesh(own.endpoint) as new, Mesh(f"ipc://{extra}") as other:
            until(lambda: len(new.status()["workers"]) == 2, "a worker that is new")
            assert [1, 2, 3] == [each.call("echo", n) for n, each in enumerate((old, new, other), 1)]
        assert epoch == old.status()["epoch"]
    assert 0o700 == stat.S_IMODE((own.dir / FRONTEND).stat().st_mode)
    assert 3 == own.broker().wait(30)  # The new lock is held as the old one was.


def test_a_path_that_another_program_took_is_taken_back(own: LiveMesh) -> None:
    own.broker()
    own.worker()
    path = own.dir / FRONTEND
    with Mesh(own.endpoint) as old, socket.socket(socket.AF_UNIX) as thief:
        old.ready(["echo"])
        aside = path.with_suffix(".aside")
        thief.bind(str(aside))
        thief.listen()
        aside.rename(path)  # At once: had the broker seen that its file is gone, it would have made another.
        bound_anew(own, 1)
        with Mesh(own.endpoint) as new:
            assert [1, 2] == [old.call("echo", 1), new.call("echo", 2)]


def test_what_cannot_be_bound_anew_is_told_once_and_tried_again(own: LiveMesh) -> None:
    process = own.broker()
    path = own.dir / FRONTEND
    until(lambda: "broker_ready" in own.log("broker"), "the broker")
    with standing_still(process):
        path.unlink()
        path.mkdir()
    until(lambda: "done=nothing" in own.log("broker"), "a word of what is in the way")
    path.rmdir()
    bound_anew(own, 1)
    assert 1 == own.log("broker").count("done=nothing")
    assert process.poll() is None


def test_a_run_directory_that_is_another_brokers_now_is_left_alone(own: LiveMesh, tmp_path: Path) -> None:
    first = own.broker()
    until(lambda: "broker_ready" in own.log("broker"), "the broker")
    with standing_still(first):
        for each in (FRONTEND, "broker.lock"):
            (own.dir / each).unlink()
        lock = RunDirLock(own.dir)
    try:
        until(lambda: "the run directory is another broker's" in own.log("broker"), "a word of it")
        assert not (own.dir / FRONTEND).exists()
        assert first.poll() is None
    finally:
        lock.release()
    bound_anew(own, 1)


def test_a_broker_that_stops_leaves_the_files_of_the_one_that_has_its_directory_now(own: LiveMesh) -> None:
    first = own.broker()
    until(lambda: "broker_ready" in own.log("broker"), "the broker")
    with standing_still(first):
        for each in (FRONTEND, "broker.lock"):
            (own.dir / each).unlink()
        lock = RunDirLock(own.dir)
    try:
        (own.dir / FRONTEND).touch()
        first.terminate()
        assert 0 == first.wait(30)
        assert (own.dir / FRONTEND).exists()
    finally:
        lock.release()


def test_a_further_path_where_somebody_else_is_now_is_theirs(own: LiveMesh, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    own.broker("--listen", f"ipc://{path}")
    until(lambda: "broker_ready" in own.log("broker"), "the broker")
    other = path.with_suffix(".other")
    other.touch()
    other.rename(path)
    until(lambda: "may be another's by right" in own.log("broker"), "a word of it")
    path.unlink()
    bound_anew(own, 1)


def test_a_lock_is_held_as_long_as_its_file_or_a_new_one_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = RunDirLock(folder)
    assert lock.held()
    assert not lock.abandoned
    (folder / "broker.lock").unlink()
    assert lock.held()
    with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
        RunDirLock(folder)
    shutil.rmtree(folder)
    assert not lock.held()
    lock.release()


def test_a_lock_tells_whether_the_life_before_ended_in_order(tmp_path: Path) -> None:
    first = RunDirLock(tmp_path)
    first.release(in_order=False)
    second = RunDirLock(tmp_path)
    second.release()
    third = RunDirLock(tmp_path)
    third.release()
    assert [False, True, False] == [each.abandoned for each in (first, second, third)]
