"""The Node client's benchmark compares within rounds, says what it lacks, and runs against a real mesh."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.node import contest, tools
from benchmarks.node.contest import EMBED, MESH, NATS, NATS_NODE, SPAWNED, Contest, Contestant, Figures
from benchmarks.node.run import _data, run, targets
from benchmarks.processes import Group

FIGURES = {
    **{f"{name}_{callers}": 100.0 for name in ("p50", "p95", "p99") for callers in (1, 64)},
    "calls_per_s_1": 1000.0,
    "calls_per_s": 20_000.0,
    "client_cpu_us": 10.0,
    "service_cpu_us": 50.0,
}
EMBEDDED = {"p50": 60.0, "p95": 120.0, "p99": 150.0, "texts_per_s": 80.0}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


def rounds(*pace: float) -> list[dict[str, Figures]]:
    """Return rounds in which the machine has some pace; NATS is a quarter faster with workers in Node."""

    def echo(share: float, pace: float) -> Figures:
        return {**FIGURES, "calls_per_s": FIGURES["calls_per_s"] * share * pace}

    return [
        {MESH: echo(1.0, p), NATS: echo(0.8, p), NATS_NODE: echo(1.25, p), SPAWNED: echo(0.01, p), EMBED: EMBEDDED}
        for p in pace
    ]


def test_the_mesh_is_compared_with_each_peer_within_rounds() -> None:
    lines = targets(rounds(1.0, 0.1, 0.9))
    assert [1.25, 0.8, 100.0, 120.0] == [round(line.figure, 6) for line in lines]
    assert ["met", "missed", "met", "met"] == [line.verdict for line in lines]
    assert "mesh 18,000 calls/s" in lines[0].detail


def test_a_peer_that_is_not_there_is_not_measured_and_stands_in_no_table() -> None:
    found = [{MESH: FIGURES, EMBED: EMBEDDED}]
    assert ["not measured", "not measured", "not measured", "met"] == [line.verdict for line in targets(found)]
    ((head, *rows),) = _data(found)["tables"]
    assert [[MESH]] == [row[:1] for row in rows]
    assert all(len(row) == len(head) for row in rows)
    assert ["not measured"] * 4 == [line.verdict for line in targets([])]


def test_without_node_the_result_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(tmp_path, quick=True)
    assert ["node: Node 20 or newer is not installed"] == list(result.skipped)
    assert json.loads((tmp_path / "node.json").read_text(encoding="utf-8"))["data"]["rounds"] == []


@needs_node
def test_a_step_that_fails_says_which_and_why(tmp_path: Path) -> None:
    with pytest.raises(tools.MissingError, match=r"it is upside down: .*no such thing"):
        tools._run([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path, "it is upside down")
    with pytest.raises(tools.MissingError, match="it is not there"):
        tools._run([tmp_path / "absent"], tmp_path, "it is not there")


def test_what_is_compared_with_is_pinned_and_no_dependency_of_the_client() -> None:
    wanted = json.loads(tools.PEERS.read_text(encoding="utf-8"))["dependencies"]
    assert {"@nats-io/transport-node", "piscina"} == wanted.keys()
    assert all(version[0].isdigit() for version in wanted.values())
    manifest = json.loads((tools.CLIENT / "package.json").read_text(encoding="utf-8"))
    assert not wanted.keys() & {*manifest["dependencies"], *manifest["devDependencies"]}


@needs_node
@pytest.mark.slow
def test_the_client_process_measures_what_it_is_asked_to() -> None:
    with Group() as group:
        node = shutil.which("node")
        assert node is not None
        here = Contest(tools.Tools(node, Path("absent"), None, "no peers", {}))
        here._group = group
        here.contestants[SPAWNED] = Contestant({"kind": "python", "address": sys.executable}, [])
        with here._client(here.contestants[SPAWNED]) as client:
            for callers in (1, 3):
                found = contest._measured(client, callers, 0.2)
                assert 0 < found["p50"] <= found["p95"] <= found["p99"]
                assert found["count"] >= callers
                assert found["client_cpu_us"] > 0
                # Every caller calls all the time, and half of the calls take p50 or longer.
                assert 0 < found["calls_per_s"] <= 2 * callers * 1e6 / found["p50"]


@needs_node
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_echo_and_embed_are_measured_through_real_meshes() -> None:
    if not (tools.CLIENT / "node_modules").exists():
        pytest.skip("client/node has no node_modules")
    with Contest(tools.prepare(compared=False)) as here:
        assert {MESH, SPAWNED} == here.contestants.keys()
        assert 2 == len(here.skipped)
        echo, embedded = here.echo(MESH, 0.3), here.embed(0.3)
    assert 0 < echo["p50_1"] <= echo["p95_1"] <= echo["p99_1"]
    assert 0 < echo["calls_per_s"] <= 2 * contest.IN_FLIGHT * 1e6 / echo["p50_64"]
    assert echo["service_cpu_us"] > 0
    assert 0 < embedded["p50"] <= embedded["p95"]
