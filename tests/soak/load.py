"""The load: callers of every kind, each of which knows what its answer must be."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from mlx_mesh import AsyncMesh, MeshError

TIMEOUT_S = 60.0
TOLERANCE = 1e-4
"""Between a text embedded in one batch and in another; the sums are the same, their order is not."""

TEXTS = tuple(
    f"{words} {number}" for number in range(8) for words in ("a small lake", "the broker of the mesh", "x " * 60)
)
PROMPTS = tuple(f"Once upon a time, number {number}," for number in range(8))
TOKENS = 24
PAUSES_S = {"echo": 0.05, "embed": 0.3, "generate": 0.6, "cancel": 1.0, "refused": 1.0, "visit": 1.0}
"""Between two calls of one caller, by kind: together they keep the workers busy and not saturated."""

CALLERS = {"echo": 4, "embed": 2, "generate": 2, "cancel": 1, "refused": 1, "visit": 1}


class Load:
    """Calls a mesh from the loop that it is entered in, until it is left.

    Attributes:
        done: calls that had the right answer, by kind.
        wrong: what was lost or wrong, with its number.
        latencies: seconds of the calls since :meth:`take`, by kind.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._mesh = AsyncMesh(endpoint)
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._vectors: dict[str, list[float]] = {}
        self._stories: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {kind: [] for kind in CALLERS}

    async def __aenter__(self) -> Self:
        await self._mesh.__aenter__()
        await self._mesh.ready(["echo", "embed", "generate"], timeout=120)
        for text in TEXTS:
            self._vectors[text] = (await self._mesh.embed(text, cache=False)).tolist()[0]
        for prompt in PROMPTS:
            self._stories[prompt] = await self._story(prompt)
        calls: dict[str, Callable[[random.Random], Awaitable[bool]]] = {
            "echo": self._echo, "embed": self._embed, "generate": self._generate,
            "cancel": self._cancel, "refused": self._refused, "visit": self._visit,
        }  # fmt: skip
        for kind, count in CALLERS.items():
            for number in range(count):
                chance = random.Random(f"{kind} {number}")
                self._tasks.append(asyncio.create_task(self._caller(kind, calls[kind], chance)))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        await asyncio.wait(self._tasks, timeout=TIMEOUT_S + 10)
        hung = [task for task in self._tasks if not task.done()]
        self.wrong.update({"callers that hang": len(hung)} if hung else {})
        for task in hung:
            task.cancel()
        await self._mesh.__aexit__(None, None, None)

    def take(self) -> dict[str, list[float]]:
        """Return the latencies since the last time, by kind."""
        taken, self.latencies = self.latencies, {kind: [] for kind in CALLERS}
        return taken

    async def _caller(self, kind: str, call: Callable[[random.Random], Awaitable[bool]], chance: random.Random) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                right = await call(chance)
            except MeshError as error:
                self.wrong[f"{kind}: {error.code}: {error.message}"] += 1
            else:
                self.done[kind] += right
                self.wrong.update({} if right else {f"{kind}: a wrong answer": 1})
                self.latencies[kind].append(time.monotonic() - began)
            await asyncio.sleep(PAUSES_S[kind] * chance.uniform(0.5, 1.5))

    async def _echo(self, chance: random.Random) -> bool:
        value = {"bytes": chance.randbytes(chance.choice([16, 1000, 100_000])), "number": chance.random()}
        return bool(await self._mesh.call("echo", value, timeout=TIMEOUT_S) == value)

    async def _embed(self, chance: random.Random) -> bool:
        texts = chance.choices(TEXTS, k=chance.choice([1, 3, 16]))
        vectors = (await self._mesh.embed(texts, timeout=TIMEOUT_S, cache=chance.random() < 0.5)).tolist()
        wanted = [self._vectors[text] for text in texts]
        return all(
            abs(a - b) < TOLERANCE
            for ours, theirs in zip(vectors, wanted, strict=True)
            for a, b in zip(ours, theirs, strict=True)
        )

    async def _story(self, prompt: str) -> str:
        return await self._mesh.generate(prompt, max_tokens=TOKENS, temperature=0.0, timeout=TIMEOUT_S).text()

    async def _generate(self, chance: random.Random) -> bool:
        prompt = chance.choice(PROMPTS)
        return await self._story(prompt) == self._stories[prompt]

    async def _cancel(self, chance: random.Random) -> bool:
        """Leave a text after its first piece, and a call at once."""
        generation = self._mesh.generate(chance.choice(PROMPTS), max_tokens=400, timeout=TIMEOUT_S)
        async with generation:
            await anext(aiter(generation), None)
        call = asyncio.ensure_future(self._mesh.embed(list(TEXTS), cache=False, timeout=TIMEOUT_S))
        await asyncio.sleep(0.001)
        call.cancel()
        return isinstance((await asyncio.gather(call, return_exceptions=True))[0], asyncio.CancelledError)

    async def _refused(self, chance: random.Random) -> bool:
        """Ask for what nobody serves, and for an answer in no time."""
        codes = []
        for op, timeout in (("nobody.serves.this", TIMEOUT_S), ("echo", 1e-4)):
            try:
                await self._mesh.call(op, 1, timeout=timeout)
            except MeshError as error:
                codes.append(error.code)
        return codes[:1] in (["NO_WORKER"], ["UNKNOWN_OP"]) and set(codes[1:]) <= {"DEADLINE_EXCEEDED"}

    async def _visit(self, chance: random.Random) -> bool:
        """Come with a connection of one's own, ask, and leave."""
        async with AsyncMesh(self._endpoint) as mesh:
            return bool(await mesh.call("echo", "visit", timeout=TIMEOUT_S) == "visit")
