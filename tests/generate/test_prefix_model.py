"""The prefix cache against a naive one, with random texts; and that system prompts are shared and go last."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.engines.generate.prefix import PREFIX_MIN_TOKENS, PrefixCache
from tests.generate.driver import Driver, texts_of, tokens_of

MAX_BYTES = 200


class Layer:
    """Stands for a layer of a cache of so many tokens; knows what was cut off."""

    def __init__(self, tokens: tuple[int, ...], trimmable: bool) -> None:
        self.tokens = tokens
        self.trimmable = trimmable
        self.nbytes = len(tokens)

    def is_trimmable(self) -> bool:
        return self.trimmable

    def trim(self, count: int) -> int:
        assert self.trimmable
        self.tokens = self.tokens[: len(self.tokens) - count]
        return count


class Naive:
    """The same by looking at everything."""

    def __init__(self) -> None:
        self.entries: dict[tuple[int, ...], tuple[bool, bool]] = {}  # tokens: trimmable, system; oldest first

    def fetch(self, tokens: tuple[int, ...]) -> set[tuple[int, ...]]:
        """Return all entries that are best for a text; empty if none is worth it."""
        found: dict[tuple[int, ...], int] = {}
        for own, (trimmable, _) in self.entries.items():
            common = next((n for n, (a, b) in enumerate(zip(own, tokens, strict=False)) if a != b), None)
            shared = min(len(own), len(tokens)) if common is None else common
            shared = min(shared, len(tokens) - 1)
            if shared >= PREFIX_MIN_TOKENS and (trimmable or shared == len(own)):
                found[own] = shared
        most = max(found.values(), default=0)
        return {own for own, shared in found.items() if shared == most}

    def use(self, tokens: tuple[int, ...]) -> None:
        self.entries[tokens] = self.entries.pop(tokens)

    def store(self, tokens: tuple[int, ...], trimmable: bool, system: bool) -> None:
        if len(tokens) < PREFIX_MIN_TOKENS or len(tokens) > MAX_BYTES // 2:
            return
        system = system or self.entries.get(tokens, (False, False))[1]
        self.entries.pop(tokens, None)
        if trimmable and not system:
            for own in [o for o, (_, s) in self.entries.items() if tokens[: len(o)] == o and not s]:
                del self.entries[own]
        self.entries[tokens] = trimmable, system
        self.shrink(MAX_BYTES)

    def shrink(self, most: int) -> None:
        for system in (False, True):
            for own in [o for o, (_, s) in self.entries.items() if s == system]:
                if sum(map(len, self.entries)) <= most:
                    return
                del self.entries[own]


def texts() -> st.SearchStrategy[tuple[int, ...]]:
    """Texts that begin alike: of two tokens, or with one of a few long beginnings."""
    start = st.sampled_from([(1,) * 12, (1,) * 12 + (2,) * 6, (1,) * 8, (2, 1) * 10, (300,) * 9, (65_536,) * 9, ()])
    rest = st.lists(st.sampled_from([1, 2, 256]), max_size=8).map(tuple)
    return st.tuples(start, rest).map(lambda parts: parts[0] + parts[1]).filter(bool)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fetch"), texts()),
        st.tuples(st.just("store"), texts(), st.booleans(), st.integers(0, 4).map(lambda n: n == 0)),
        st.tuples(st.just("shrink"), st.integers(-1, MAX_BYTES)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_it_finds_keeps_and_forgets_what_a_naive_one_does(steps: list[Any]) -> None:
    cache, naive = PrefixCache(MAX_BYTES), Naive()
    hits = saved = 0
    for what, *rest in steps:
        if what == "fetch":
            (tokens,) = rest
            best = naive.fetch(tokens)
            layers, count = cache.fetch(tokens)
            assert bool(best) == (layers is not None)
            if layers is None:
                assert 0 == count
            else:
                assert tokens[:count] == layers[0].tokens
                assert PREFIX_MIN_TOKENS <= count < len(tokens)
                assert all(count == min(_shared(own, tokens), len(tokens) - 1) for own in best)
                used = _key_of(next(reversed(cache._entries)))
                assert used in best
                naive.use(used)
                hits, saved = hits + 1, saved + count
        elif what == "store":
            tokens, trimmable, system = rest
            cache.store(list(tokens), [Layer(tokens, trimmable)], system=system)
            naive.store(tokens, trimmable, system)
        else:
            cache.shrink(rest[0])
            naive.shrink(rest[0])
        assert list(naive.entries) == [_key_of(key) for key in cache._entries]
        assert sorted(cache._entries) == cache._keys
        assert sum(map(len, naive.entries)) == cache.nbytes <= MAX_BYTES
        assert all(_key_of(key) == entry.cache[0].tokens for key, entry in cache._entries.items())
        assert (hits, saved) == (cache.hits, cache.saved_tokens)


def _key_of(key: bytes) -> tuple[int, ...]:
    return tuple(tokens_of(key))


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def test_the_very_same_text_is_found_but_for_its_last_token() -> None:
    cache = PrefixCache(MAX_BYTES)
    tokens = tuple(range(20))
    cache.store(tokens, [Layer(tokens, True)])
    layers, count = cache.fetch(tokens)
    assert layers is not None
    assert (19, tokens[:19]) == (count, layers[0].tokens)
    state = PrefixCache(MAX_BYTES)
    state.store(tokens, [Layer(tokens, False)])
    assert (None, 0) == state.fetch(tokens)


def test_a_hit_makes_an_entry_the_newest() -> None:
    cache = PrefixCache(MAX_BYTES)
    found = [(n,) * 60 for n in range(3)]
    for tokens in found:
        cache.store(tokens, [Layer(tokens, True)])
    assert 60 == cache.fetch([*found[0], 9])[1]
    cache.store((7,) * 60, [Layer((7,) * 60, True)])
    assert [60, 0, 60, 60] == [cache.fetch([*tokens, 9])[1] for tokens in (found[0], found[1], found[2], (7,) * 60)]


def test_system_prompts_go_last() -> None:
    cache = PrefixCache(MAX_BYTES)
    system = (5,) * 60
    cache.store(system, [Layer(system, True)], system=True)
    for n in range(10, 20):
        cache.store((n,) * 60, [Layer((n,) * 60, True)])
    assert 60 == cache.fetch([*system, 9])[1]
    cache.store((*system, 1, 2, 3), [Layer((*system, 1, 2, 3), True)])
    assert 2 == sum(_key_of(key)[:60] == system for key in cache._entries)
    cache.shrink(60)
    assert [system] == [_key_of(key) for key in cache._entries]


SYSTEM = {"role": "system", "content": "You are brief, and answer in the words of the one who asks. " * 3}


def chat(driver: Driver, *contents: str, count: int = 5) -> dict[str, Any]:
    roles = ("user", "assistant")
    said = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
    job = driver.submit({"messages": [SYSTEM, *said], "max_tokens": count}, op="chat")
    driver.run(job)
    end = driver.ends[job]
    assert isinstance(end, dict)
    return {**end["usage"], "tokens": driver.tokens(job)}


@pytest.mark.slow
def test_two_conversations_share_the_system_prompt(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    texts = texts_of(engine)
    alone = []
    for content in ("Good morning, what is there to be done", "12 things that nobody has asked before"):
        texts.prefixes.clear()
        alone.append(chat(driver, content))
    texts.prefixes.clear()
    read = texts.counts["read_tokens"]
    first = chat(driver, "Good morning, what is there to be done")
    read, whole = texts.counts["read_tokens"], texts.counts["read_tokens"] - read
    assert [True] == [entry.system for entry in texts.prefixes._entries.values() if entry.system]
    second = chat(driver, "12 things that nobody has asked before")
    (system,) = (len(key) // 4 for key, entry in texts.prefixes._entries.items() if entry.system)
    assert 0 == first["cached"]
    assert system <= second["cached"] < system + 8
    assert second["prompt"] - 1 - second["cached"] == texts.counts["read_tokens"] - read < whole
    assert [one["tokens"] for one in alone] == [first["tokens"], second["tokens"]]


@pytest.mark.slow
def test_a_shared_system_prompt_outlives_conversations(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    texts = texts_of(engine)
    most = texts.prefixes.max_bytes
    try:
        chat(driver, "first")
        texts.prefixes.max_bytes = 4 * texts.prefixes.nbytes
        for n in range(12):
            driver.run(driver.submit({"prompt": [n + 5] * 90, "max_tokens": 2}))
        assert chat(driver, "and after all of these")["cached"] > 40
    finally:
        texts.prefixes.max_bytes = most
