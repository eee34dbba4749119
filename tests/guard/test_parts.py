"""The small parts of the guard: supervisord's protocol, reasons out of logs, settings, what it tells the broker."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mesh_wire import pack_body, unpack_body
from mlx_mesh_wire.guard_report import Limit, parse_report
from mlx_mesh_wire.settings import SettingsError, load_settings
from mlx_mesh_worker.guard.backoff import Backoff
from mlx_mesh_worker.guard.broker_link import with_device
from mlx_mesh_worker.guard.listener import Event, ListenerError, Reader
from mlx_mesh_worker.guard.main import main
from mlx_mesh_worker.guard.reasons import reason_of
from mlx_mesh_worker.guard.reporting import report
from mlx_mesh_worker.guard.settings import GuardSettings, check_groups, check_settings
from tests.guard.world import World
from tests.live import BIN, LiveMesh, live_mesh

GIB = 1 << 30

# As supervisord 4.3 wrote them.
EXITED = (
    b"ver:3.0 server:mlx-mesh serial:21 pool:guard poolserial:10 eventname:PROCESS_STATE_EXITED len:83\n"
    b"processname:embed-0 groupname:workers from_state:RUNNING expected:0 pid:2766       "
)
TICK = b"ver:3.0 server:mlx-mesh serial:22 pool:guard poolserial:11 eventname:TICK_5 len:15\nwhen:1201063880"


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30))
def test_events_are_put_together_however_they_arrive(cuts: list[int]) -> None:
    stream, reader, found = EXITED + TICK + EXITED, Reader(), []
    for cut in [*cuts, len(stream)]:
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert ["PROCESS_STATE_EXITED", "TICK_5", "PROCESS_STATE_EXITED"] == [event.name for event in found]
    assert (2766, "workers", 0) == (found[0].pid, found[0].fields["groupname"], found[1].pid)


@pytest.mark.parametrize("data", [b"hello\n", b"ver:3.0 eventname:X len:-1\n", b"len:5\nabcde", b"x" * 5000])
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ListenerError):
        list(Reader().feed(data))


def test_a_pid_that_is_none_is_zero() -> None:
    assert 0 == Event("PROCESS_STATE_FATAL", {"pid": "x"}).pid


LOG = """\
12:00:01.123 info    worker_ready total_ms=280
12:00:02.456 error   cannot_load engine=embed reason=/models/a: model.safetensors is truncated
"""
TRACEBACK = (
    "12:00:02.456 error   load_failed reason=ValueError('no such key') engine=mine:E hint=it is traceback=Trace\n"
    '  File "mine.py", line 3, in load\n'
)
JSON_LOG = """{"time": "x", "level": "info", "event": "draining"}
{"level": "error", "event": "crashed", "reason": "boom"}
{bad"""


@pytest.mark.parametrize(
    ("tail", "status", "spawn_error", "reason"),
    [
        (LOG, 78, "", "exit status 78: cannot_load: /models/a: model.safetensors is truncated"),
        (TRACEBACK, 1, "Exited too quickly", "exit status 1: load_failed: ValueError('no such key')"),
        (JSON_LOG, 1, "", "exit status 1: crashed: boom"),
        ("mlx-mesh-worker: --engine is missing\n", 2, "", "exit status 2: mlx-mesh-worker: --engine is missing"),
        ("", 0, "can't find command 'x'", "can't find command 'x'"),
        ("", 3, "Exited too quickly", "exit status 3"),
        ("all is well\n", 0, "", "it ended, and its log does not say why"),
    ],
)
def test_the_reason_is_what_the_log_says_last(tail: str, status: int, spawn_error: str, reason: str) -> None:
    assert reason == reason_of(tail, status, spawn_error)


@pytest.mark.parametrize(
    ("given_settings", "field"),
    [
        ({"pause_at": 0.7}, "guard.pause_at"),
        ({"recycle_at": 0.85}, "guard.recycle_at"),
        ({"stop_at": 0.5}, "guard.stop_at"),
        ({"trim_at": 0.02}, "guard.hysteresis"),
        ({"reserve_bytes": 9 * GIB}, "guard.reserve_bytes"),
        ({"retry_s": 400.0}, "guard.retry_max_s"),
        ({"ceiling_bytes": 500}, "guard.ceiling_bytes"),
        ({"max_footprint_bytes": 1}, "guard.max_footprint_bytes"),
    ],
)
def test_settings_that_contradict_themselves_are_refused_by_name(given_settings: dict[str, float], field: str) -> None:
    settings = load_settings(GuardSettings, "guard", env={}, flags=given_settings)
    with pytest.raises(SettingsError, match=f"^{field}: .* is not allowed; allowed: "):
        check_settings(settings, 8 * GIB)


def test_the_defaults_are_allowed_on_small_and_large_machines() -> None:
    for total in (GIB, 8 * GIB, 512 * GIB):
        check_settings(GuardSettings(), total)
        assert total * 0.005 < GuardSettings().reserve(total) <= total / 4


def test_a_group_that_supervisord_does_not_have_is_refused_by_name() -> None:
    check_groups(GuardSettings(groups=("workers",)), {"workers", "generate"})
    with pytest.raises(
        SettingsError, match="'wrokers' is not allowed; allowed: groups with workers: generate, workers"
    ):
        check_groups(GuardSettings(groups=("wrokers",)), {"workers", "generate"})


def test_pauses_between_tries_grow_and_end_with_the_first_answer() -> None:
    peer, now, tries = Backoff("broker"), 0.0, []
    for _ in range(400):
        now += 0.1
        if peer.may_try(now):
            tries.append(now)
            peer.failed(now, "nobody listens")
    pauses = [later - sooner for sooner, later in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert 9.8 < pauses[-1] < 10.3
    assert len(tries) == peer.failures
    peer.worked()
    assert peer.may_try(now)


def test_a_report_of_everything_is_one_that_the_broker_takes() -> None:
    world = World(limit_mib=1000.0)
    for number in range(2):
        world.add(f"w-{number}", leak_mib_s=6.0)
    world.add("broken", "other").broken = True
    phases = set()
    for _ in range(120):
        world.step()
        told = report(world.sample(), world.state, world.now, pid=7, uptime_s=1.0, errors={"ram": 2})
        assert told == parse_report(unpack_body(pack_body(told.as_map())))
        phases |= {recycle.phase for recycle in told.recycles}
    assert {"drain", "stop"} <= phases
    assert [("broken", "FATAL", "it broke")] == [(each.name, each.state, each.reason) for each in told.troubled]
    assert told.counters["recycles memory"] >= 1
    assert any("w-1 is recycled" in line for line in told.recent)


def test_what_the_device_bears_is_taken_from_the_workers_unless_the_driver_tells() -> None:
    world = World()
    for number in range(2):
        world.add(f"w-{number}")
    memory = {"mlx_active": 3 * GIB, "mlx_cache": GIB, "mlx_limit": 12 * GIB}
    workers = [worker._replace(memory=memory) for worker in world.sample().workers or ()]
    assert [Limit("ram", 1, 2), Limit("device", 8 * GIB, 12 * GIB)] == with_device([Limit("ram", 1, 2)], workers)
    assert [Limit("device", 1, 2)] == with_device([Limit("device", 1, 2)], workers)
    assert [] == with_device([], [worker._replace(remote=True) for worker in workers])
    assert [] == with_device([], list(world.sample().workers or ()))


@pytest.fixture(scope="module")
def mesh() -> LiveMesh:  # type: ignore[misc]
    with live_mesh() as mesh:
        yield mesh  # type: ignore[misc]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--pause-at", "0.2"], "guard.pause_at: 0.2 is not allowed"),
        (["--reserve-bytes", "999999999999999"], "guard.reserve_bytes"),
        (["--sample-s", "soon"], "--sample-s: 'soon' is not allowed"),
        ([], "start it by [eventlistener:guard]"),
    ],
)
def test_the_program_refuses_by_name_what_it_cannot_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: list[str], words: str
) -> None:
    monkeypatch.delenv("SUPERVISOR_ENABLED", raising=False)
    monkeypatch.setenv("MLX_MESH_RUN_DIR", str(tmp_path / "run"))
    assert 2 == main(args)
    said = capsys.readouterr()
    assert "" == said.out
    assert said.err.startswith("mlx-mesh-guard: ")
    assert words in said.err


@pytest.mark.slow
def test_it_leaves_when_supervisord_is_gone_and_survives_that_nobody_answers(mesh: LiveMesh) -> None:
    env = {**mesh.env, "SUPERVISOR_ENABLED": "1"}
    process = subprocess.Popen(
        [BIN / "mlx-mesh-guard", "--sample-s", "0.1"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), True)
    assert b"READY\n" == process.stdout.readline()
    process.stdin.write(TICK + EXITED)
    process.stdin.flush()
    assert b"RESULT 2\n" == process.stdout.readline()
    assert b"OKREADY\n" == process.stdout.readline()
    _, errors = process.communicate(timeout=30)
    assert 0 == process.returncode, errors
    for peer in ("broker", "supervisord"):
        assert 1 == errors.decode().count(f"peer_away peer={peer}")
