"""The generate benchmark: its arithmetic is right, its prompts share nothing, and a quick run measures all of it."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from benchmarks import report
from benchmarks.__main__ import BENCHMARKS
from benchmarks.generate import prompts
from benchmarks.generate.contest import BARE, MESH, ONE_PROCESS, SERVER
from benchmarks.generate.meter import PATIENCE_S, Meter
from benchmarks.generate.prompts import LONGEST, MAX_TOKENS, SHORTEST, VARIED, Prompts
from benchmarks.generate.run import PARAMETERS_MIN, SIZE, count_parameters
from benchmarks.generate.scenes import gap_figures
from benchmarks.generate.sources import ServerSource
from benchmarks.generate.summary import data, plot, targets
from benchmarks.generate.trace import REMOVED, STEP, removals
from benchmarks.http import HttpError
from benchmarks.llama import make_llama
from benchmarks.results import Result

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("models") / "tiny", "tiny")


@pytest.fixture(scope="module", autouse=True)
def _text_is_read_once() -> Iterator[None]:
    """Parsing half of the standard library takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts, "texts", functools.cache(prompts.texts))
        yield


def test_prompts_have_the_lengths_asked_for_and_begin_alike_nowhere(llama: Path) -> None:
    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    requests = Prompts(llama).requests(8, 300)
    found = [tokenizer.encode(prompt).ids for prompt, _ in requests]
    longest_word = 40
    assert all(SHORTEST - 1 <= len(tokens) < LONGEST + longest_word for tokens in found)
    assert max(map(len, found)) > LONGEST * 0.9
    assert min(map(len, found)) < SHORTEST * 2
    # The prefix cache of the engine looks at nothing shorter than 8 tokens, of a larger vocabulary than this.
    assert len({tuple(tokens[:16]) for tokens in found}) > 0.97 * len(found)


def test_everybody_gets_the_same_prompts_and_streams_end_one_after_another(llama: Path) -> None:
    requests = Prompts(llama).requests(8, 40)
    assert requests == Prompts(llama).requests(8, 40)
    first, rest = [length for _, length in requests[:8]], [length for _, length in requests[8:]]
    assert all(MAX_TOKENS - VARIED <= length <= MAX_TOKENS + VARIED for length in rest)
    assert first[0] < first[3] < first[7]
    assert first[0] <= (MAX_TOKENS + VARIED) // 8


def test_prompts_run_out_instead_of_coming_again(llama: Path) -> None:
    few = Prompts(llama)
    with pytest.raises(ValueError, match="beginnings of prompts are used"):
        few.requests(1, 1_000_000)


@pytest.mark.slow
def test_the_model_is_large_enough_to_be_what_is_measured(tmp_path: Path, llama: Path) -> None:
    from mlx.utils import tree_flatten
    from mlx_lm import load

    weights: list[Any] = tree_flatten(load(str(llama))[0].parameters())  # type: ignore[assignment]
    assert sum(value.size for _, value in weights) == count_parameters(llama)
    assert count_parameters(make_llama(tmp_path, SIZE)) >= PARAMETERS_MIN


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_begins_when_every_stream_has_its_first_token() -> None:
    clock = Clock()
    meter = Meter(2, 10.0, clock)
    first, second = meter.begin(opens=True), meter.begin(opens=True)
    clock.now += 1
    meter.piece(first, 5)
    clock.now += 1
    meter.piece(second, 7)  # the time begins with this one
    for _ in range(30):
        clock.now += 0.5
        meter.piece(first, 1)
        meter.piece(second, 1)
    found = meter.figures()
    assert meter.over
    # Those that came before the time, with its beginning and with its end do not count.
    assert 2 * 19 == pytest.approx(found["tokens_per_s"] * 10)
    assert (500.0, 500.0) == (pytest.approx(found["gap_p50_ms"]), pytest.approx(found["gap_p99_ms"]))
    assert 5 + 7 + 60 == found["all_tokens"]
    assert math.isnan(found["first_p95_ms"])
    assert 0 == found["firsts"]


def test_a_request_that_began_in_time_is_followed_to_its_first_token() -> None:
    clock = Clock()
    meter = Meter(1, 10.0, clock)
    meter.piece(meter.begin(opens=True), 1)
    clock.now += 9
    late, never = meter.begin(), meter.begin()
    clock.now += 5
    assert not meter.over
    after = meter.begin()
    meter.piece(late, 1)
    meter.piece(after, 1)
    assert not meter.over
    clock.now += PATIENCE_S
    assert meter.over
    found = meter.figures()
    assert 2 == found["firsts"]
    assert 5_000.0 == pytest.approx(found["first_p50_ms"])
    assert 5_000.0 + PATIENCE_S * 1e3 == pytest.approx(found["first_p95_ms"]), "one that never comes counts as late"
    assert math.isnan(never.first)


def test_tokens_that_come_together_have_no_time_between_them() -> None:
    clock = Clock()
    meter = Meter(1, 10.0, clock)
    track = meter.begin(opens=True)
    meter.piece(track, 1)
    for _ in range(4):
        clock.now += 1
        meter.piece(track, 4)
    assert (0.0, 1_000.0) == (meter.figures()["gap_p50_ms"], meter.figures()["gap_p99_ms"])


def test_pieces_of_unknown_size_are_counted_by_those_of_requests_that_ended() -> None:
    clock = Clock()
    meter = Meter(1, 10.0, clock)
    ended, running = meter.begin(opens=True), meter.begin()
    for track in (ended, running):
        for _ in range(5):
            meter.piece(track, 1)
            clock.now += 0.1
    meter.end(ended, 20)
    found = meter.figures(counts_pieces=True)
    assert 4.0 == found["tokens_per_piece"]
    assert 9 * 4 == pytest.approx(found["tokens_per_s"] * 10)
    assert 0.0 == found["gap_p50_ms"]


def test_steps_are_counted_from_when_a_client_left_until_its_row_is_out() -> None:
    events = [(STEP, 1.0), (STEP, 2.0), (STEP, 3.0), (REMOVED, 3.5), (STEP, 4.0), (REMOVED, 4.5)]
    assert [(2.0, 2), (0.5, 0)] == [(each.seconds, each.steps) for each in removals(events, [1.5, 4.0])]
    with pytest.raises(ValueError, match="never taken out"):
        removals(events, [4.6])


def test_the_worst_gap_is_looked_for_while_the_long_prompt_is_read() -> None:
    usual = [(-0.05 * n, 0.05) for n in range(1, 20)]
    found = gap_figures([*usual, (0.04, 0.05), (0.4, 0.36), (0.9, 0.1), (2.5, 9.0)], 1.0, 1.0)
    assert 50.0 == pytest.approx(found["usual_ms"])
    assert 360.0 == pytest.approx(found["worst_ms"])
    assert 7.2 == pytest.approx(found["worst_of_usual"])
    # One that had begun before is no fault of the prompt; one after it shows over time only.
    assert 230.0 == pytest.approx(found["meanwhile_ms"])
    assert [2.5, 9_000.0] == [pytest.approx(each) for each in found["over_time"][-1]]


@asynccontextmanager
async def http_server(answer: bytes, left: asyncio.Event) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        writer.write(answer)
        if answer.endswith(b"[DONE]\n\n") or b" 404 " in answer:
            writer.close()
            return
        with suppress(ConnectionError):
            await reader.read()
        left.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


EVENTS = (
    b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\n\r\n: keepalive 7/9\n\n"
    b'data: {"choices": [{"text": "one"}]}\n\ndata: {"choices": [{"text": "", "finish_reason": "length"}]}\n\n'
)
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}\n\ndata: [DONE]\n\n'


def test_events_of_the_server_become_pieces() -> None:
    async def read(answer: bytes) -> list[tuple[int, str, Any]]:
        async with http_server(answer, asyncio.Event()) as port, ServerSource(str(port)) as source:
            return [tuple(piece) async for piece in source.pieces("prompt", 2)]  # type: ignore[misc]

    usage = {"prompt": 9, "completion": 2, "cached": 0}
    assert [(1, "one", None), (0, "", None), (0, "", usage)] == asyncio.run(read(EVENTS + USAGE))
    with pytest.raises(HttpError, match="404"):
        asyncio.run(read(b"HTTP/1.0 404 Not Found\r\n\r\nno model"))


def test_leaving_the_server_closes_the_connection() -> None:
    async def leave() -> None:
        begun, left = asyncio.Event(), asyncio.Event()

        async def read(port: int) -> None:
            async for _ in ServerSource(str(port)).pieces("prompt", 2):
                begun.set()

        async with http_server(EVENTS, left) as port:
            task = asyncio.create_task(read(port))
            await asyncio.wait_for(begun.wait(), 60)
            assert not left.is_set()
            task.cancel()
            await asyncio.wait_for(left.wait(), 60)

    asyncio.run(leave())


def figures(rate: float, first: float) -> dict[str, float]:
    rest = dict.fromkeys(("first_p50_ms", "gap_p50_ms", "gap_p99_ms", "engine_cpu_s"), 1.0)
    return {"tokens_per_s": rate, "first_p95_ms": first, "all_tokens": 100.0, **rest}


def rounds() -> list[Any]:
    found = []
    for slow in (1.0, 0.1, 1.0):  # the machine was slow in the second round; ratios are taken within rounds
        by_name = {
            MESH: figures(95 * slow, 10 / slow),
            BARE: figures(100 * slow, 9 / slow),
            SERVER: figures(50 * slow, 150 / slow),
        }
        found.append({"1": by_name, "32": by_name})
    return found


def beside() -> dict[str, Any]:
    reading = {
        "usual_ms": 30.0,
        "meanwhile_ms": 60.0,
        "worst_ms": 90.0,
        "worst_of_usual": 3.0,
        "long_first_ms": 900.0,
        "short_first_ms": [100.0, 200.0],
        "over_time": [[-0.1, 30.0], [0.0, 90.0]],
    }
    chat = {"first_turn_ms": [500.0], "known_ms": [50.0], "cold_ms": [500.0]}
    cancel = {MESH: ([1, 1], [9.0, 12.0]), SERVER: ([14, 9], [500.0, 300.0]), ONE_PROCESS: ([0, 2], [3.0, 30.0])}
    return {
        "cancel": {name: {"steps": steps, "ms": ms} for name, (steps, ms) in cancel.items()},
        "long": {name: [reading] for name in (MESH, SERVER)},
        "chat": dict.fromkeys((MESH, SERVER), chat),
    }


def test_targets_are_ratios_within_rounds_at_the_most_streams() -> None:
    found = [(target.figure, target.verdict) for target in targets(rounds(), beside(), 8)]
    assert [(0.95, "met"), (1.9, "missed"), (15.0, "met")] == [(pytest.approx(a), b) for a, b in found[:3]]
    assert [(2, "missed"), (1, "met"), (3.0, "met"), (200.0, "met"), (10.0, "met")] == found[3:]


def test_the_tables_are_shown_in_the_terminal_and_on_the_page(tmp_path: Path) -> None:
    shown = data(rounds(), beside(), 8)
    result = Result("generate", targets(rounds(), beside(), 8), {**shown, "parameters": 1, "long_tokens": 1})
    text, page = report.table([result]), report.section([result], tmp_path / "page.md", tmp_path)
    assert "32       BatchGenerator  100       0.95 x" in text
    assert "| 32 | mlx_lm.server | 50 | 1.90 x | 1, 150 | 0.07 x | 1, 1 | engine 10 |" in page
    assert "| beside 8 streams | mesh | mlx_lm.server |\n|---|---|---|\n" in page
    assert 0.95 == pytest.approx(shown["ratios"]["32"]["tokens_per_s_of_bare"])


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    described = {"parameters": 25_000_000, "long_tokens": 4000, "side_streams": 8}
    plot(Result("generate", [], {**data(rounds(), beside(), 8), **described}), tmp_path)
    assert (tmp_path / "generate.svg").read_text(encoding="utf-8").count('id="axes_') == 4


def test_every_benchmark_is_reported() -> None:
    assert BENCHMARKS == report.ORDER


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="what benchmarks need is installed by make bench")
@pytest.mark.timeout(400)
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "generate", "--quick", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=380)
    assert 0 == done.returncode, done.stderr
    assert "a bare BatchGenerator's" in done.stdout
    found = json.loads((tmp_path / "generate.json").read_text(encoding="utf-8"))
    assert found["quick"] is True
    assert {"mlx-lm", "mlx"} <= set(found["versions"])
    for by_name in found["data"]["medians"].values():
        assert {MESH, BARE, SERVER} == set(by_name)
        for name, got in by_name.items():
            assert 0 < got["gap_p50_ms"] <= got["gap_p99_ms"], name
            assert 1.0 <= got["tokens_per_piece"] < 1.5
            assert got["tokens_per_s"] > 0
            assert got["engine_cpu_s"] > 0
            assert not got.get("cached_tokens"), "the prompts share a beginning"
    cancel = found["data"]["beside"]["cancel"]
    assert {MESH, SERVER, ONE_PROCESS} == set(cancel)
    assert all(0 < ms for each in cancel.values() for ms in each["ms"])
    assert max(cancel[ONE_PROCESS]["steps"]) <= 1
    for name in (MESH, SERVER):
        (reading,) = found["data"]["beside"]["long"][name]
        assert reading["worst_ms"] >= reading["usual_ms"] > 0
        assert reading["short_first_ms"]
        chat = found["data"]["beside"]["chat"][name]
        assert 0 < chat["known_ms"][0] < chat["cold_ms"][0], "the known conversation was read again"
