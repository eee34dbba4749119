"""The benchmarks' arithmetic is right, their report says what was found, and the quickest of them runs."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import coldstart, curve, guard, report
from benchmarks.embed.tally import Tally
from benchmarks.embed.texts import TEXTS_PER_REQUEST, requests, texts
from benchmarks.figures import by_peer, latency_summary, median_of_ratios, percentile, slope
from benchmarks.http import HttpConnection, HttpError
from benchmarks.processes import Group
from benchmarks.results import Result, Target, load
from benchmarks.rpc.run import targets as rpc_targets

ROOT = Path(__file__).resolve().parents[2]
MET = Target("met one", "at most", 2.0, 1.5)
MISSED = Target("missed one", "at least", 2.0, 1.5)
ABSENT = Target("absent one", "at least", 2.0, math.nan)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_smallest_sample_that_covers_the_share(share: float, expected: float) -> None:
    assert expected == percentile([float(n) for n in range(100, 0, -1)], share)


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        latency_summary([])


def test_ratios_are_taken_within_rounds() -> None:
    # The machine was ten times slower in the second round; the ratio of medians would be 1.
    assert 2.0 == median_of_ratios([2.0, 20.0, 2.0], [1.0, 10.0, 2.0])
    assert 2.0 == median_of_ratios([2.0, math.nan, 5.0], [1.0, 1.0, 0.0])
    assert math.isnan(median_of_ratios([math.nan], [1.0]))


def test_a_peer_that_was_not_there_gives_no_figure() -> None:
    rounds = [{"mesh": {"p50": 1.0}}, {"mesh": {"p50": 2.0}, "nats": {"p50": 4.0}}]
    assert [1.0, 2.0] == by_peer(rounds, "mesh", "p50")
    missing, there = by_peer(rounds, "nats", "p50")
    assert (True, 4.0) == (math.isnan(missing), there)


def test_the_rate_of_bursts_is_the_slope_through_them() -> None:
    bursts = [(float(second), 10.0 * (second * 3 + part)) for second in range(20) for part in range(3)]
    assert 30.0 == pytest.approx(slope(*zip(*bursts, strict=True)), rel=0.02)
    with pytest.raises(ValueError, match="no line fits"):
        Tally(0.0, 1.0).texts_per_s()


def test_targets_are_held_to_their_bound() -> None:
    assert ["met", "missed", "not measured"] == [each.verdict for each in (MET, MISSED, ABSENT)]
    assert "met" == Target("", "at least", 2.0, 2.0).verdict


def test_rpc_without_peers_measures_nothing_against_them() -> None:
    figures = {"p50": 1.0, "requests_per_s": 9.0, "middle_cpu_us": 3.0}
    rounds = [{"mesh": figures, "mesh, raw client": figures, "zmq.proxy": {**figures, "middle_cpu_us": 1.0}}]
    verdicts = {target.what: target.verdict for target in rpc_targets(rounds)}
    assert 5 == list(verdicts.values()).count("not measured")
    assert 2 == list(verdicts.values()).count("missed")


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = Result("rpc", [MET, MISSED, ABSENT], {"rounds": [{"p50": 1 / 3, "cpu": math.nan}]}, skipped=["nats: gone"])
    path = result.save(tmp_path)
    again = load(path)
    assert [MET, MISSED] == list(again.targets)[:2]
    assert "not measured" == again.targets[2].verdict
    assert (result.date, result.machine, ["nats: gone"]) == (again.date, again.machine, again.skipped)
    assert {"rounds": [{"p50": 0.333333, "cpu": None}]} == again.data


def test_the_table_shows_target_figure_and_verdict() -> None:
    text = report.table([Result("rpc", [MET, MISSED, ABSENT], {}, quick=True, skipped=["nats: not installed"])])
    assert "met one     at most 2 x   1.5 x  met" in text
    assert "missed one  at least 2 x  1.5 x  missed" in text
    assert "absent one  at least 2 x  -      not measured" in text
    assert "left out: nats: not installed" in text
    assert "--quick" in text


def page_with_marks(folder: Path) -> Path:
    page = folder / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"# Title\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nafter\n", encoding="utf-8")
    return page


def test_publishing_replaces_the_section_and_keeps_the_rest(tmp_path: Path) -> None:
    page, found, reference = page_with_marks(tmp_path), tmp_path / "found", tmp_path / "reference"
    Result("scale", [MET], {}).save(found)
    (found / "scale.svg").write_text("<svg/>", encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.SHORT_BEGIN}\n{report.SHORT_END}\n", encoding="utf-8")
    for _ in range(2):  # a second time changes nothing
        report.publish(found, page, reference, readme)
        assert 1 == readme.read_text(encoding="utf-8").count("| met one | at most 2 x | 1.5 x |")
        text = page.read_text(encoding="utf-8")
        assert "old" not in text
        assert text.startswith("# Title\n")
        assert text.endswith(f"{report.END}\n\nafter\n")
        assert 1 == text.count("| met one | at most 2 x | 1.5 x | met |")
        assert "![scale](../reference/scale.svg)" in text
    assert (reference / "scale.json").read_text() == (found / "scale.json").read_text()


def test_what_was_measured_on_which_machine_is_told(tmp_path: Path) -> None:
    here = {"cpu": "Slow", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux", "python": "3.11.0"}
    there = {**here, "cpu": "Quick", "cores": 8}
    slow, quick = "Slow, 2 cores, 8 GiB, Linux, Python 3.11.0", "Quick, 8 cores, 8 GiB, Linux, Python 3.11.0"
    one, two, three = (Result(name, [MET], {}, machine=on) for name, on in (("a", here), ("b", there), ("c", here)))
    page = tmp_path / "page.md"
    assert f": {slow}.\n" in report.section([one, three], page, tmp_path)
    assert f": a, c on {slow}; b on {quick}.\n" in report.section([one, two, three], page, tmp_path)


def test_only_full_results_become_the_reference(tmp_path: Path) -> None:
    page = page_with_marks(tmp_path)
    with pytest.raises(FileNotFoundError, match="no results"):
        report.publish(tmp_path, page, tmp_path / "reference")
    Result("scale", [MET], {}, quick=True).save(tmp_path)
    with pytest.raises(ValueError, match="quick"):
        report.publish(tmp_path, page, tmp_path / "reference")
    with pytest.raises(ValueError, match="marks"):
        report.replace_section("a page without them", "new")


def test_the_page_of_the_documentation_has_its_marks() -> None:
    assert "new text" in report.replace_section(report.PAGE.read_text(encoding="utf-8"), "new text")
    short = (report.SHORT_BEGIN, report.SHORT_END)
    assert "new text" in report.replace_section(report.README.read_text(encoding="utf-8"), "new text", *short)


def test_phases_add_up_to_the_time_until_ready() -> None:
    line = "2026 info worker_ready engine=embed pid=7 import_ms=10 load_ms=100 warm_ms=20 total_ms=300"
    found = coldstart.phases(15.0, 75.0, 290.0, coldstart.parse_ready(line))
    assert {"interpreter": 15.0, "program's imports": 60.0, "connect and READY": 85.0}.items() <= found.items()
    assert 290.0 == found["total"] == sum(found[phase] for phase in coldstart.PHASES)


def test_the_corpus_is_real_text_and_every_text_is_in_one_request() -> None:
    chunks, every = requests(), texts()
    assert every == [text for chunk in chunks for text in chunk]
    assert len(every) > 200
    assert TEXTS_PER_REQUEST == max(map(len, chunks))


async def serve(answers: list[bytes]) -> list[bytes]:
    """Post once for each answer over one connection; return what came of it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(4)
            for piece in (answer[:25], answer[25:]):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    connection = await HttpConnection.open(server.sockets[0].getsockname()[1], "/inference")
    try:
        return [await connection.post(b"body") for _ in answers]
    finally:
        connection.close()
        server.close()
        await server.wait_closed()


def test_the_http_client_reads_answers_that_come_in_pieces() -> None:
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in (b"one", b"", b"three")]
    assert [b"one", b"", b"three"] == asyncio.run(serve(answers))


def test_the_http_client_refuses_anything_but_success() -> None:
    with pytest.raises(HttpError, match="503"):
        asyncio.run(serve([b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"]))


@pytest.mark.slow
def test_echo_is_measured_through_a_real_mesh() -> None:
    with Group() as group:
        broker = group.mesh("echo", 1)
        for client in ("mesh", "mesh-raw"):
            found = group.ask("benchmarks.rpc.load", client, group.endpoint, str(broker.pid), "0.2")
            assert 0 < found["p50"] <= found["p95"] <= found["p99"]
            assert found["requests"] > 64
            assert found["middle_cpu_us"] > 0
    assert broker.poll() is not None


@pytest.mark.slow
def test_scale_runs_alone_and_leaves_its_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "scale", "--quick", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert 0 == done.returncode, done.stderr
    assert "core, cost per request over all of these" in done.stdout
    found = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))
    assert found["quick"] is True
    assert {2, 64} == {place["workers"] for place in found["data"]["places"]}
    assert all(place["median_ns"] > 0 for place in found["data"]["places"])
    assert 0 < found["data"]["memory_bytes_per_queued"] < 4096


def test_a_benchmark_that_does_not_exist_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "rcp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert "rcp: no such benchmark" in done.stderr


def test_the_guard_is_held_to_its_budget_and_compared_where_its_peer_is_installed() -> None:
    ours, theirs = guard.Cost(0.4, 4.0, 30.0), guard.Cost(2.0, 100.0, 24.0)
    both = guard.targets({guard.GUARD: ours, guard.MEMMON: theirs})
    assert [("met", 0.4), ("met", 30.0), ("met", 0.04)] == [(line.verdict, line.figure) for line in both]
    assert ["met", "met", "not measured"] == [line.verdict for line in guard.targets({guard.GUARD: ours})]
    assert "missed" == guard.targets({guard.GUARD: ours._replace(share=1.01)})[0].verdict


@pytest.mark.slow
def test_what_the_guard_costs_is_measured_under_a_real_supervisord() -> None:
    found = guard.measure(2, 2.0)
    assert 10 < found[guard.GUARD].mib < 80
    assert 0 <= found[guard.GUARD].share < 50


def test_keys_are_compared_with_the_same_without() -> None:
    figures = {"p50": 100.0, "requests_per_s": 1000.0, "middle_cpu_us": 50.0}
    dear = {"p50": 160.0, "requests_per_s": 600.0, "middle_cpu_us": 75.0}
    lines = curve.targets([{curve.IPC: figures, curve.BARE: figures, curve.KEYED: dear}], {curve.KIB: 4.0})
    assert [1.6, 0.6, 1.5, 4.0] == [round(line.figure, 6) for line in lines]
    assert ["missed", "met", "met", "met"] == [line.verdict for line in lines]


def test_sealing_costs_more_the_larger_a_message_is() -> None:
    found = curve.sealing((100, 16 * curve.KIB), 640)
    assert 0 < found[16 * curve.KIB]
    assert found[100] < found[16 * curve.KIB]


@pytest.mark.slow
def test_what_keys_cost_is_measured_on_a_real_broker() -> None:
    with Group() as group:
        (found,) = curve.measure(group, 1, 0.2)
    assert {curve.IPC, curve.BARE, curve.KEYED} == found.keys()
    assert all(figures["requests"] > 0 for figures in found.values())
    assert found[curve.KEYED]["middle_cpu_us"] > 0
