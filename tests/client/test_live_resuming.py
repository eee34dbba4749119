"""Texts whose worker, or whose whole mesh, is killed in the middle: they go on from their last token."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from mlx_mesh import AsyncGeneration, AsyncMesh, Mesh, TextChunk
from tests.live import LiveMesh, Process, until

pytestmark = pytest.mark.slow

TELLER = """
import os, random, struct, time
from mlx_mesh_worker.engine import Chunk, Engine, Result

class Teller(Engine):
    '''generate: counts from 0, one to three numbers in a chunk, cut otherwise each time, the last one in the result.'''
    ops = ("generate",)
    slots = 4
    resumes = True

    def __init__(self, model=""):
        super().__init__(model)
        self.jobs = {}
        self.told = 0

    def admit(self, job):
        state = job.state or b""
        self.jobs[job] = job.value(), list(struct.unpack(f"<{len(state) // 4}I", state))
        self.note("admit", job, len(self.jobs[job][1]))

    def cancel(self, job):
        self.jobs.pop(job, None)

    def counters(self):
        return {"told": self.told}

    def about(self):
        return {"batching": "one at a time"}

    def note(self, what, job, number):
        with open("notes", "a") as file:
            file.write(f"{os.getpid()} {job.key[1]} {what} {number}\\n")

    def step(self):
        time.sleep(0.01)
        jobs = [job for job in self.jobs if not job.blocked]
        self.mark(jobs)
        return [self.tell(job) for job in jobs]

    def tell(self, job):
        body, have = self.jobs[job]
        last = body["max_tokens"] - 1
        new = range(len(have), min(last, len(have) + random.randint(1, 3)))
        for number in new or [last]:
            self.note("token", job, number)
            self.told += 1
        if new:
            have.extend(new)
            return Chunk(job, self.shown(body, list(new)))
        del self.jobs[job]
        usage = {"prompt": 1, "cached": 0, "completion": last + 1}
        end = {"finish_reason": "length", "usage": usage, "timings": {}, "model": "counting"}
        return Result(job, {**end, **self.shown(body, [last])})

    def shown(self, body, tokens):
        shown = {"text": "".join(f"{token} " for token in tokens), "tokens": tokens}
        if body.get("logprobs"):
            shown["logprobs"] = [{"token": token, "logprob": -0.5, "top": [[token, -0.5]]} for token in tokens]
        return shown

class Inline(Teller):
    inline = True
"""


NARROW = 1
"""Window of a reader that gives a worker no more ahead than one chunk, however long it is held up."""

LOST_MAX = 9
"""Numbers that a worker may have counted without such a reader having got them: those of three chunks, in the worker's
two threads and on the way.
"""

LENIENT = ("--rejoin-s", "60", "--deaths-max", "10")
"""Flags of a broker that waits for workers as long as they take, also where no text gets on between two kills."""


class Note(NamedTuple):
    pid: int
    request: int
    what: str
    number: int


class Told:
    """A mesh of workers that count."""

    def __init__(self, own: LiveMesh) -> None:
        self.own = own
        own.engine(TELLER)
        self.broker = own.broker(*LENIENT)
        self.workers: dict[int, Process] = {}

    def worker(self, *args: str) -> Process:
        process = self.own.worker("mine:Teller", f"teller-{len(self.workers)}", *args)
        self.workers[process.pid] = process
        return process

    def notes(self, what: str = "token") -> list[Note]:
        path = self.own.dir / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        notes = [Note(int(p), int(r), w, int(n)) for p, r, w, n in map(str.split, lines)]
        return [note for note in notes if note.what == what]

    def counting(self) -> Process:
        """Return the worker that counted last."""
        return self.workers[self.notes()[-1].pid]

    def nothing_was_counted_again_that_was_read(self) -> None:
        """Check that each worker counted on from where it began, and the second one from what the client had."""
        admitted = self.notes("admit")
        assert 0 == admitted[0].number
        for note in admitted:
            counted = [token.number for token in self.notes() if token.pid == note.pid]
            assert counted == list(range(note.number, note.number + len(counted)))
        first, second = admitted
        lost = max(token.number for token in self.notes() if token.pid == first.pid) + 1 - second.number
        assert 0 <= lost <= LOST_MAX


@pytest.fixture
def told(own: LiveMesh) -> Told:
    return Told(own)


def whole(chunks: list[TextChunk], count: int) -> None:
    assert list(range(count)) == [token for chunk in chunks for token in chunk.tokens]
    assert "".join(f"{number} " for number in range(count)) == "".join(chunk.text for chunk in chunks)


def read(generation: Any, until_token: int) -> list[TextChunk]:
    chunks: list[TextChunk] = []
    while not any(until_token in chunk.tokens for chunk in chunks):
        chunks.append(next(generation))
    return chunks


def killed(told: Told) -> None:
    told.counting().kill()


def hurried(told: Told) -> None:
    worker = told.counting()
    worker.send_signal(signal.SIGTERM)
    until(lambda: any("draining" in told.own.log(f"teller-{n}") for n in range(2)), "the worker to drain")
    worker.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("end", [killed, hurried])
def test_a_text_goes_on_from_its_last_token_when_its_worker_is_ended(told: Told, end: Callable[[Told], None]) -> None:
    told.worker()
    told.worker()
    with Mesh(told.own.endpoint) as mesh:
        mesh.ready(["generate"])
        until(lambda: len(mesh.status()["workers"]) == 2, "two workers")
        with mesh.generate("count", max_tokens=120, logprobs=True, window=NARROW) as generation:
            chunks = read(generation, 20)
            end(told)
            chunks += list(generation)
        whole(chunks, 120)
        assert all(each["token"] in chunk.tokens for chunk in chunks for each in chunk.logprobs or [{}])
        result = generation.result
        assert result is not None
        assert ("length", {"prompt": 1, "cached": 0, "completion": 120, "moved": 1}) == result[:2]
    first, second = told.notes("admit")
    assert first.pid != second.pid
    assert 20 < second.number < 120
    told.nothing_was_counted_again_that_was_read()


def test_many_texts_survive_one_kill_after_the_other(told: Told) -> None:
    told.worker()
    told.worker()

    got: list[TextChunk] = []

    async def one(mesh: AsyncMesh, number: int) -> int:
        generation = mesh.generate(f"count {number}", max_tokens=300, timeout=90.0)
        chunks = []
        async for chunk in generation:
            chunks.append(chunk)
            got.append(chunk)
        whole(chunks, 300)
        assert generation.result is not None
        return generation.result.usage["moved"]

    async def every() -> list[int]:
        async with AsyncMesh(told.own.endpoint) as mesh:
            await mesh.ready(["generate"])
            tasks = [asyncio.ensure_future(one(mesh, number)) for number in range(6)]
            for part in range(1, 4):  # of six: no text has ended before the first of them
                while sum(len(chunk.tokens) for chunk in got) < part * 300:  # noqa: ASYNC110  any text may tell
                    await asyncio.sleep(0.01)
                told.counting().kill()
                told.worker()
            return await asyncio.gather(*tasks)

    assert sum(asyncio.run(every())) > 0


def test_a_text_survives_its_broker_and_its_worker_at_once(told: Told) -> None:
    told.worker()
    with Mesh(told.own.endpoint) as mesh:
        mesh.ready(["generate"])
        generation = mesh.generate("count", max_tokens=80, window=NARROW)
        chunks = read(generation, 20)
        told.broker.kill()
        told.counting().kill()
        told.broker.wait()
        told.own.broker(*LENIENT)
        told.worker()
        chunks += list(generation)
        whole(chunks, 80)
        assert generation.result is not None
        assert 1 == generation.result.usage["moved"]
    told.nothing_was_counted_again_that_was_read()


def test_a_text_survives_connections_that_are_lost_all_the_time(told: Told) -> None:
    told.worker()

    async def main() -> int:
        async with AsyncMesh(told.own.endpoint) as mesh:
            await mesh.ready(["generate"])
            texts = [mesh.generate(f"count {number}", max_tokens=400) for number in range(4)]
            got = asyncio.Event()
            reading = [asyncio.ensure_future(every_chunk(text, got)) for text in texts]
            for number in range(40):
                # Or no text might get anywhere before the last one; once all have ended, nothing more comes.
                if number % 4 == 0 and not all(each.done() for each in reading):
                    await got.wait()
                await asyncio.sleep(0.01 + 0.003 * (number % 7))
                assert mesh._link is not None
                mesh._link.session.reconnect = True
                mesh._schedule()
                got.clear()
            for chunks in await asyncio.gather(*reading):
                whole(chunks, 400)
            return sum(text.result.usage["moved"] for text in texts if text.result is not None)

    assert 0 == asyncio.run(main())
    assert len(told.notes("admit")) > 4


async def every_chunk(text: AsyncGeneration, got: asyncio.Event) -> list[TextChunk]:
    chunks = []
    try:
        async for chunk in text:
            chunks.append(chunk)
            got.set()
    finally:
        got.set()
    return chunks


def test_a_text_survives_its_broker_alone(told: Told) -> None:
    told.worker()
    with Mesh(told.own.endpoint) as mesh:
        mesh.ready(["generate"])
        generation = mesh.generate("count", max_tokens=80)
        chunks = read(generation, 20)
        told.broker.kill()
        told.broker.wait()
        told.own.broker(*LENIENT)
        chunks += list(generation)
        whole(chunks, 80)
        assert generation.result is not None
        assert 1 == generation.result.usage["moved"]
    _, again = told.notes("admit")
    assert again.number > 20


def test_the_end_may_hold_the_last_token_and_a_text_left_early_says_so(told: Told) -> None:
    told.worker()
    with Mesh(told.own.endpoint) as mesh:
        mesh.ready(["generate"])
        *_, before, last = list(mesh.generate("count", max_tokens=6, logprobs=True))
        assert TextChunk("5 ", [5], [{"token": 5, "logprob": -0.5, "top": [[5, -0.5]]}]) == last
        assert 4 in before.tokens
        generation = mesh.generate("count", max_tokens=1000)
        assert generation.result is None
        chunks = read(generation, 5)
        generation.close()
        count = sum(len(chunk.tokens) for chunk in chunks)
        assert ("cancelled", {"completion": count, "moved": 0}, {}, "") == generation.result

        async def leave() -> None:
            async with AsyncMesh(told.own.endpoint) as other:
                async with other.generate("count", max_tokens=1000) as text:
                    first = await anext(text)
                assert text.result is not None
                assert ("cancelled", len(first.tokens)) == (text.result.finish_reason, text.result.usage["completion"])
                short = other.generate("count", max_tokens=4)
                assert "0 1 2 3 " == await short.text()
                assert short.result is not None
                assert 0 == short.result.usage["moved"]

        asyncio.run(leave())


@pytest.mark.parametrize("engine", ["Teller", "Inline"])
def test_what_an_engine_counts_and_says_of_itself_is_shown(told: Told, engine: str) -> None:
    told.own.worker(f"mine:{engine}", "counting")
    with Mesh(told.own.endpoint) as mesh:
        mesh.ready(["generate"])
        mesh.generate("count", max_tokens=6).text()
        until(lambda: mesh.status()["workers"][0]["counters"] == {"told": 6}, "the count")
        assert "one at a time" == mesh.status()["workers"][0]["versions"]["batching"]
