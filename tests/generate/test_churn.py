"""Random crowds of texts: each is answered once, with the tokens that it has alone, and nothing is left behind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_mesh_wire import MeshError, MeshOutOfMemoryError
from mlx_mesh_worker.engines.generate import GenerateEngine, decoder, row
from mlx_mesh_worker.job import Job
from mlx_mesh_worker.runner import Done
from tests.generate.driver import Driver, loaded_by, make_engine, texts_of, tokens_of

pytestmark = pytest.mark.slow

KV_LIMIT = 3 * 2**17
"""Room for about three texts of middle length: many have to wait."""

ROWS = 3
REQUESTS = 60


class Counting(Driver):
    """Counts the ends of each job."""

    def __init__(self, engine: GenerateEngine) -> None:
        super().__init__(engine)
        self.answers: dict[Job, int] = {}

    def turn(self) -> None:
        turn = self.runner.turn

        def counted() -> Any:
            outcomes = turn()
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    self.answers[outcome.job] = self.answers.get(outcome.job, 0) + 1
            return outcomes

        self.runner.turn = counted  # type: ignore[method-assign]
        try:
            super().turn()
        finally:
            self.runner.turn = turn  # type: ignore[method-assign]


def bodies() -> list[dict[str, Any]]:
    chance = random.Random(5)
    found: list[dict[str, Any]] = []
    for seed in range(16):
        length = chance.choice([1, 2, 5, 20, 63, 64, 90, 200])
        start = chance.choice([0, 0, seed])
        body: dict[str, Any] = {
            "prompt": [(11 * start + 7 * n) % 400 + 3 for n in range(length)],
            "max_tokens": chance.choice([1, 2, 8, 30, 70]),
        }
        if chance.random() < 0.6:
            body |= {"temperature": 1.0, "seed": seed, "top_p": 0.95}
        if chance.random() < 0.3:
            body |= {"repetition_penalty": 1.3, "logit_bias": {"1": -100}}
        if chance.random() < 0.3:
            body |= {"stop": chance.sample(["e", "th", " a", "qu", "."], 2)}
        if chance.random() < 0.2:
            body |= {"logprobs": True, "top_logprobs": 2}
        if chance.random() < 0.15:
            body |= {"json_schema": {"enum": ["yes", "no", "perhaps"]}}
        found.append(body)
    return found


@pytest.fixture(scope="module")
def crowded(llama: Path) -> tuple[GenerateEngine, list[dict[str, Any]], list[list[int]]]:
    engine = make_engine(llama, rows=ROWS, kv_max_bytes=KV_LIMIT)
    chosen = bodies()
    alone = []
    for body in chosen:
        texts_of(engine).prefixes.clear()
        alone.append(Driver(engine).all(body)[0])
    texts_of(engine).prefixes.clear()
    return engine, chosen, alone


class Crowd:
    """Submits, cancels and holds up readers at random."""

    def __init__(self, engine: GenerateEngine, chosen: list[dict[str, Any]], alone: list[list[int]], seed: int) -> None:
        self.engine = engine
        self.texts = texts_of(engine)
        self.chosen = chosen
        self.alone = alone
        self.chance = random.Random(seed)
        self.driver = Counting(engine)
        self.jobs: dict[Job, tuple[int, int]] = {}
        self.cancelled: set[Job] = set()
        self.hurried: set[Job] = set()
        self.seen = {"waiting": 0, "set aside": 0, "solo": 0, "most": 0}

    @property
    def open(self) -> list[Job]:
        return [job for job in self.jobs if job not in self.driver.ends and job not in self.cancelled]

    def submit(self) -> None:
        chance = self.chance
        number = chance.randrange(len(self.chosen))
        whole = self.alone[number]
        given = whole[: chance.randrange(len(whole) + 1)] if chance.random() < 0.2 else None
        late = chance.random() < 0.1
        job = self.driver.submit(
            self.chosen[number],
            lane=chance.randrange(3),
            stream=given is not None or chance.random() < 0.8,
            given=given,
            alone=chance.random() < 0.1,
            remaining_ms=chance.choice([1, 20, 60]) if late else 600_000,
        )
        self.jobs[job] = number, len(given or ())
        if late:
            self.hurried.add(job)

    def disturb(self) -> None:
        chance, running = self.chance, self.open
        if running and chance.random() < 0.04:
            job = chance.choice(running)
            self.cancelled.add(job)
            self.driver.cancel(job)
        if running and chance.random() < 0.1:
            job = chance.choice(running)
            job.backlog.extend([()] * job.stream)
        if chance.random() < 0.15 or (running and all(job.blocked for job in running)):
            for job in running:
                job.backlog.clear()
        if chance.random() < 0.02:
            self.engine.trim(chance.choice([0, 1, 2]))

    def run(self) -> None:
        while len(self.jobs) < REQUESTS or self.open:
            if len(self.jobs) < REQUESTS and self.chance.random() < 0.5:
                self.submit()
            self.disturb()
            self.driver.turn()
            self.look()

    def look(self) -> None:
        texts = self.texts
        assert len(texts._decoder) + len(texts._reader) <= ROWS
        kept = sum(layer.nbytes for entry in texts.prefixes._entries.values() for layer in entry.cache)
        assert kept == texts.prefixes.nbytes
        self.seen["most"] = max(self.seen["most"], texts.nbytes + kept)
        self.seen["waiting"] += any(not each.cache for each in texts._waiting)
        self.seen["set aside"] += any(each.cache for each in texts._waiting)
        self.seen["solo"] += texts._decoder.suspects

    def check(self, job: Job) -> None:
        number, skip = self.jobs[job]
        expected, tokens = self.alone[number], self.driver.tokens(job)
        if job in self.cancelled:
            assert self.driver.answers.get(job, 0) <= 1
            return
        assert 1 == self.driver.answers[job]
        end = self.driver.ends[job]
        if isinstance(end, MeshError):
            assert job in self.hurried
            assert "DEADLINE_EXCEEDED" == end.code or isinstance(end, MeshOutOfMemoryError)
            assert expected[skip:][: len(tokens)] == tokens
            return
        assert expected[skip:] == tokens, (number, skip)
        assert len(expected) == end["usage"]["completion"]
        assert 0 <= end["usage"]["cached"] <= end["usage"]["prompt"]
        assert all(0 <= ms < 60_000 for ms in end["timings"].values())


@pytest.mark.parametrize("seed", range(6))
def test_each_is_answered_once_with_its_own_tokens_and_nothing_is_left(
    crowded: tuple[GenerateEngine, list[dict[str, Any]], list[list[int]]], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(*crowded, seed)
    texts = crowd.texts
    monkeypatch.setattr(texts, "_ahead", bool(seed % 2))
    monkeypatch.setattr(row, "HELD_MAX", 6)
    if seed % 3 == 2:  # texts move from batch to batch
        monkeypatch.setattr(row, "LOOKAHEAD", 3)
        monkeypatch.setattr(decoder, "SHORT_MAX", 1)
    if seed % 3 == 1:  # prompts are long in being read
        monkeypatch.setattr(texts._pace, "piece", lambda *_, **__: 16)
    crowd.run()
    assert [] == crowd.driver.reports
    for job in crowd.jobs:
        crowd.check(job)
    assert sum(isinstance(end, dict) for end in crowd.driver.ends.values()) > REQUESTS // 2
    assert crowd.seen["waiting"], crowd.seen
    assert crowd.seen["solo"] + crowd.seen["set aside"], crowd.seen
    crowd.driver.turn()
    assert 0 == len(texts) == len(texts._decoder) == len(texts._reader) == len(texts._waiting) == texts.nbytes
    assert [] == texts._decoder._batches == texts._decoder._solo
    assert crowd.seen["most"] <= KV_LIMIT
    model = loaded_by(crowd.engine).model
    for key in list(texts.prefixes._entries):
        tokens = tokens_of(key)
        assert all(layer.offset == len(tokens) for layer in texts.prefixes._entries[key].cache)
        kept = model(mx.array([[3]]), cache=texts.prefixes.fetch([*tokens, 3])[0])[0, -1]
        assert mx.allclose(model(mx.array([[*tokens, 3]]))[0, -1], kept, atol=1e-3)
