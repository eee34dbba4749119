"""What was read before is not read again, and does not change a token."""

from __future__ import annotations

import pytest

from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.engines.generate.prefix import PrefixCache
from tests.generate.driver import Driver, texts_of

pytestmark = pytest.mark.slow

START = "The same long beginning of a conversation, which a worker has read before. " * 4


def test_a_prompt_that_begins_alike_is_read_from_where_it_differs(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    fresh = Driver(engine)
    first = driver.submit({"prompt": START + "One", "max_tokens": 8})
    driver.run(first)
    second = driver.submit({"prompt": START + "Two", "max_tokens": 8})
    driver.run(second)
    usage = driver.ends[second]["usage"]
    assert usage["prompt"] - 6 < usage["cached"] < usage["prompt"]
    texts_of(engine).prefixes.clear()
    assert driver.tokens(second) == fresh.all({"prompt": START + "Two", "max_tokens": 8})[0]


def test_the_very_same_prompt_leaves_one_token_to_read(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    jobs = [driver.submit({"prompt": START, "max_tokens": 6})]
    driver.run(*jobs)
    jobs.append(driver.submit({"prompt": START, "max_tokens": 6}))
    driver.run(*jobs)
    assert driver.tokens(jobs[0]) == driver.tokens(jobs[1])
    usage = driver.ends[jobs[1]]["usage"]
    assert usage["prompt"] - 1 == usage["cached"]


def test_a_conversation_goes_on_from_its_own_answer(engine: GenerateEngine) -> None:
    driver = Driver(engine)
    messages = [{"role": "user", "content": START}]
    first = driver.submit({"messages": messages, "max_tokens": 12}, op="chat")
    driver.run(first)
    messages += [{"role": "assistant", "content": driver.text(first)}, {"role": "user", "content": "and then"}]
    second = driver.submit({"messages": messages, "max_tokens": 4}, op="chat")
    driver.run(second)
    assert driver.ends[second]["usage"]["cached"] >= driver.ends[first]["usage"]["prompt"] - 4


class Layer:
    """Stands for a layer of a cache: its size is all that is asked here."""

    def __init__(self, size: int) -> None:
        self.nbytes = size

    def is_trimmable(self) -> bool:
        return True

    def trim(self, count: int) -> int:
        return count


def test_the_bytes_are_bounded_and_what_was_used_last_stays() -> None:
    cache = PrefixCache(max_bytes=1000)
    texts = [[n] * 20 for n in range(5)]
    for tokens in texts[:3]:
        cache.store(tokens, [Layer(300)])
    assert cache.fetch([*texts[0], 9])[1] == 20
    for tokens in texts[3:]:
        cache.store(tokens, [Layer(300)])
    assert (900, 3) == (cache.nbytes, len(cache))
    assert cache.fetch([*texts[0], 9])[1] == 20
    assert cache.fetch([*texts[1], 9]) == (None, 0)


def test_a_text_takes_the_place_of_its_own_beginnings() -> None:
    cache = PrefixCache(max_bytes=1000)
    cache.store([1] * 10, [Layer(100)])
    cache.store([1] * 10, [Layer(100)])
    cache.store([1] * 30, [Layer(300)])
    assert (300, 1) == (cache.nbytes, len(cache))
    assert cache.fetch([1] * 12)[1] == 11
    cache.store([2] * 9, [Layer(600)])
    assert 1 == len(cache)
