"""One row at a time: the tokens of mlx-lm, with a draft and without one, for caches of every kind."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_lm import load
from mlx_lm.generate import BatchGenerator, StopSequences, generate_step
from mlx_lm.models import deepseek_v41, llama, llama4, mamba
from mlx_lm.models.cache import make_prompt_cache

from mlx_mesh_worker.engines.generate.request import Sampling
from mlx_mesh_worker.engines.generate.sampling import Sampler, processors
from mlx_mesh_worker.engines.generate.sequential import SequentialGenerator

pytestmark = pytest.mark.slow

PROMPTS = [[(7 * i + 31 * j) % 500 + 2 for j in range(length)] for i, length in enumerate((1, 2, 9, 40, 120))]
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=3),
    Sampling(temperature=0.7, top_p=0.9, top_k=40, seed=2**53 - 1),
    Sampling(temperature=1.0, seed=5, repetition_penalty=1.3, presence_penalty=0.5, logit_bias={9: 4.0}),
]
SMALL = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "rms_norm_eps": 1e-5}


class Came(NamedTuple):
    tokens: dict[int, list[int]]
    last: dict[int, Any]
    reads: list[Any]
    units: list[int]


class Strict(Sampler):
    """Fails if a place is skipped; remembers which places it was asked for."""

    def __init__(self, sampling: Sampling) -> None:
        super().__init__(sampling)
        self.places: list[int] = []

    def __call__(self, logprobs: mx.array) -> mx.array:
        assert (1, logprobs.size) == logprobs.shape
        self.places.append(self.position)
        return super().__call__(logprobs)


def sharper(model: Any) -> Any:
    """Larger weights make clear choices."""
    model.update(tree_map(lambda value: value * 3 if value.ndim > 1 else value, model.parameters()))
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def target(llama: Path) -> Any:
    return load(str(llama))[0]


@pytest.fixture(scope="module")
def close(llama: Path) -> Any:
    """The model with some noise: about half of its guesses are right."""
    model = load(str(llama))[0]
    mx.random.seed(5)
    model.update(tree_map(lambda v: v + 0.02 * mx.std(v) * mx.random.normal(v.shape), model.parameters()))
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def other() -> Any:
    """A model of the same vocabulary that has nothing to do with the other one, and one layer."""
    mx.random.seed(11)
    return sharper(llama_of(vocab_size=512, num_hidden_layers=1))


def llama_of(**changes: Any) -> Any:
    return llama.Model(llama.ModelArgs(**{"model_type": "llama", "intermediate_size": 64, **SMALL, **changes}))


def run(generator: Any) -> Came:
    came = Came(defaultdict(list), {}, [], [])
    for _ in range(5000):
        reads, responses = generator.next()
        if not reads and not responses:
            return came
        came.reads.extend(reads)
        came.units.append(len(responses))
        for response in responses:
            assert response.uid not in came.last
            came.tokens[response.uid].append(response.token)
            if response.finish_reason is None:
                assert response.prompt_cache is None
            else:
                came.last[response.uid] = response
    raise AssertionError("it does not end")


def put(generator: Any, prompts: list[list[int]], count: int, sampling: Sampling, stop: Any = None, **how: Any) -> Any:
    """Insert as the engine does; every row has a sampler and processors of its own."""
    if generator.__class__ is SequentialGenerator:
        make: type[Sampler] = Strict
    else:
        make = Sampler
    samplers = [make(sampling) if sampling.temperature else None for _ in prompts]
    return generator.insert(
        prompts,
        max_tokens=[count] * len(prompts),
        samplers=samplers,
        logits_processors=[processors(sampling) for _ in prompts],
        stop_sequences=[stop or StopSequences()] * len(prompts),
        **how,
    )


def batched(model: Any, prompts: list[list[int]], count: int, sampling: Sampling, stop: Any = None) -> list[Came]:
    """What mlx-lm's BatchGenerator gives for each prompt alone."""
    found = []
    for prompt in prompts:
        generator: Any = BatchGenerator(model)
        put(generator, [prompt], count, sampling, stop)
        found.append(run(generator))
    return found


def alone(model: Any, prompt: list[int], count: int) -> list[int]:
    """What mlx-lm's generate gives."""
    return [int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=count)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("draft", [None, "target", "close", "other"])
def test_tokens_are_those_of_a_batch_of_one_with_and_without_a_draft(
    target: Any, draft: str | None, sampling: Sampling, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(draft) if draft else None
    generator = SequentialGenerator(target, draft=model, draft_tokens=4, prefill_step_size=16)
    uids = put(generator, PROMPTS, 24, sampling)
    came = run(generator)
    expected = batched(target, PROMPTS, 24, sampling)
    assert [each.tokens[0] for each in expected] == [came.tokens[uid] for uid in uids]
    for uid, prompt in zip(uids, PROMPTS, strict=True):
        last = came.last[uid]
        known = [*prompt, *came.tokens[uid]]
        assert ("length", known[: len(last.all_tokens)]) == (last.finish_reason, last.all_tokens)
        assert {len(last.all_tokens)} == {layer.offset for layer in last.prompt_cache}
        assert len(known) - len(last.all_tokens) in ({0, 1} if draft else {1})
    pieces = sum(math.ceil((len(prompt) - 1) / 16) for prompt in PROMPTS)
    assert pieces * (2 if draft else 1) == len(came.reads)
    rate = generator.accepted / max(1, generator.drafted)
    low, high = {None: (0, 0), "target": (0.97, 1), "close": (0.2, 0.95), "other": (0, 0.2)}[draft]
    assert low <= rate <= high
    assert (max(came.units) > 1) == (generator.accepted > 0)


def test_greedy_tokens_are_those_of_mlx_lm_and_their_log_probabilities_too(target: Any, close: Any) -> None:
    expected = list(generate_step(mx.array(PROMPTS[3]), target, max_tokens=60))
    for draft in (None, close):
        generator = SequentialGenerator(target, draft=draft)
        generator.insert([PROMPTS[3]], [60])
        responses = []
        while found := generator.next():
            responses += found[1]
            if found == ([], []):
                break
        assert [int(token) for token, _ in expected] == [each.token for each in responses]
        for each, (_, logprobs) in zip(responses, expected, strict=True):
            assert mx.allclose(logprobs, each.logprobs, atol=1e-3).item()


def test_a_sampler_goes_on_from_its_place_and_sees_each_place_in_order(target: Any, close: Any) -> None:
    whole, part, drafted = (Strict(SAMPLINGS[1]) for _ in range(3))
    one = SequentialGenerator(target)
    one.insert([PROMPTS[2]], [30], samplers=[whole])
    expected = run(one).tokens[0]
    assert list(range(30)) == whole.places
    for sampler, draft in ((part, None), (drafted, close)):
        sampler.position = 12
        generator = SequentialGenerator(target, draft=draft)
        generator.insert([[*PROMPTS[2], *expected[:12]]], [18], samplers=[sampler])
        tokens: list[int] = []
        while (found := generator.next()) != ([], []):
            tokens += [each.token for each in found[1]]
            if tokens and draft is not None:
                assert 12 + len(tokens) == sampler.position
        assert expected[12:] == tokens
        assert set(range(12, 30)) == set(sampler.places) & set(range(30))
    assert list(range(12, 30)) == part.places


@pytest.mark.parametrize("draft", [False, True])
def test_processors_see_the_text_so_far_and_only_that(target: Any, close: Any, draft: bool) -> None:
    seen: dict[int, tuple[int, ...]] = {}

    def watch(context: mx.array, logits: mx.array) -> mx.array:
        text = tuple(context.tolist())
        seen[len(text)] = text
        return mx.where(mx.arange(logits.shape[-1]) % 2 == len(text) % 2, logits, -1e9)

    generator = SequentialGenerator(target, draft=close if draft else None)
    cache = make_prompt_cache(target)
    target(mx.array([PROMPTS[3][:30]]), cache=cache)
    generator.insert([PROMPTS[3][30:]], [25], caches=[cache], all_tokens=[PROMPTS[3][:30]], logits_processors=[[watch]])
    came = run(generator)
    text = (*PROMPTS[3], *came.tokens[0])
    assert {length: text[:length] for length in range(40, 65)} == seen
    assert all(token % 2 == place % 2 for place, token in enumerate(text[40:], 40))
    plain = SequentialGenerator(target)
    plain.insert([PROMPTS[3]], [25], logits_processors=[[watch]])
    assert came.tokens[0] == run(plain).tokens[0]
    assert (generator.accepted > 5) == draft


def test_a_processor_that_has_a_state_of_its_own_is_called_once_for_each_place(target: Any, close: Any) -> None:
    lengths: list[int] = []

    class Counting:
        stateful = True

        def __call__(self, context: mx.array, logits: mx.array) -> mx.array:
            lengths.append(context.size)
            return logits

    generator = SequentialGenerator(target, draft=close)
    generator.insert([PROMPTS[2], PROMPTS[2]], [20, 20], logits_processors=[[Counting()], None])
    came = run(generator)
    assert came.tokens[0] == came.tokens[1]
    assert list(range(9, 29)) == lengths
    assert 0 < generator.drafted < 20 * 3


@pytest.mark.parametrize("draft", [None, "target", "other"])
def test_stop_sequences_end_a_row_wherever_they_fall_in_a_round(
    target: Any, draft: str | None, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(draft) if draft else None
    sampling = SAMPLINGS[1]
    (free,) = batched(target, [PROMPTS[4]], 30, sampling)
    for end in range(1, 12):
        stop: Any = StopSequences([free.tokens[0][max(0, end - 2) : end]])
        (expected,) = batched(target, [PROMPTS[4]], 30, sampling, stop)
        generator = SequentialGenerator(target, draft=model, draft_tokens=4)
        put(generator, [PROMPTS[4]], 30, sampling, stop)
        came = run(generator)
        last = came.last[0]
        assert (expected.tokens[0], "stop") == (came.tokens[0], last.finish_reason)
        known = [*PROMPTS[4], *came.tokens[0]]
        assert {len(last.all_tokens)} == {layer.offset for layer in last.prompt_cache}
        assert known[: len(last.all_tokens)] == last.all_tokens
        assert 0 == generator.prompt_cache_nbytes


def test_a_unit_reads_one_piece_whose_size_may_change_and_the_draft_reads_the_known_beginning_too(
    target: Any, close: Any
) -> None:
    cache = make_prompt_cache(target)
    target(mx.array([PROMPTS[4][:50]]), cache=cache)
    known = PROMPTS[4][:50]
    generator = SequentialGenerator(target, draft=close, prefill_step_size=10)
    generator.insert([PROMPTS[4][50:]], [20], caches=[cache], all_tokens=[known])
    progress = []
    for size in (10, 10, 40, 40, 100, 100):
        generator.prefill_step_size = size
        ((read,), responses) = generator.next()
        assert [] == responses
        progress.append((*read.progress, read.end_of_prompt))
    assert [(n, 70, n == 70) for n in (10, 20, 60, 69, 69, 70)] == progress
    assert 50 == len(known)
    came = run(generator)
    assert ([], alone(target, PROMPTS[4], 20)) == (came.reads, came.tokens[0])


@pytest.mark.parametrize("draft", ["target", "close", "other"])
def test_after_every_round_both_caches_hold_what_they_are_said_to(
    target: Any, draft: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(draft)
    generator = SequentialGenerator(target, draft=model, draft_tokens=4)
    put(generator, [PROMPTS[3]], 30, SAMPLINGS[0])
    (row,) = generator._rows
    checked = 0
    while row.left > 6:
        _, came = generator.next()
        if not came:
            continue
        assert row.draft_cache is not None
        held = row.tokens[: row.draft_read]
        assert len(row.tokens) - 1 <= len(held)
        for each, cache, tokens in ((target, row.cache, row.tokens), (model, row.draft_cache, held)):
            fresh = make_prompt_cache(each)
            each(mx.array([tokens]), cache=fresh)
            for layer, expected in zip(cache, fresh, strict=True):
                assert expected.offset == layer.offset
                pairs = zip(expected.keys_and_values(), layer.keys_and_values(), strict=True)
                assert all(mx.allclose(a, b, rtol=1e-3, atol=1e-3).item() for a, b in pairs)
        checked += 1
    assert 5 <= checked


@pytest.mark.parametrize("draft", [False, True])
def test_rows_are_taken_out_in_every_stage_with_what_was_read_and_go_on_from_it(
    target: Any, close: Any, draft: bool
) -> None:
    sampling = SAMPLINGS[1]
    (expected,) = batched(target, [PROMPTS[4]], 30, sampling)
    for units in (0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 20):
        generator = SequentialGenerator(target, draft=close if draft else None, prefill_step_size=32)
        first, second, third = put(generator, [PROMPTS[4], PROMPTS[3], PROMPTS[2]], 30, sampling)
        tokens = [each.token for _ in range(units) for each in generator.next()[1] if each.uid == first]
        assert {} == generator.remove([second])
        if len(tokens) == 30:
            continue
        removed = generator.remove([first], return_prompt_caches=True)
        cache, read = removed[first]
        text = [*PROMPTS[4], *tokens]
        assert ({first}, text[: len(read)]) == (set(removed), read)
        assert {len(read)} == {layer.offset for layer in cache}
        assert len(text) - len(read) in (0, 1) if tokens else len(read) < len(text)
        left = read[:-1] if len(read) == len(text) else read
        for layer in cache:
            layer.trim(len(read) - len(left))
        again = SequentialGenerator(target, draft=close if draft else None)
        sampler = Sampler(sampling)
        sampler.position = len(tokens)
        again.insert([text[len(left) :]], [30 - len(tokens)], caches=[cache], all_tokens=[left], samplers=[sampler])
        assert expected.tokens[0] == [*tokens, *run(again).tokens[0]]
        assert {third} == set(run(generator).tokens)


def test_nothing_is_left_of_rows_that_were_removed_or_let_go(target: Any, close: Any) -> None:
    generator = SequentialGenerator(target, draft=close)
    assert ([], []) == generator.next()
    uids = generator.insert([PROMPTS[4], PROMPTS[3]], [30, 30])
    for _ in range(4):
        generator.next()
    both = sum(layer.nbytes for layer in generator._rows[0].cache + generator._rows[0].draft_cache)
    assert 0 < both == generator.prompt_cache_nbytes
    generator.remove(uids)
    assert (0, ([], [])) == (generator.prompt_cache_nbytes, generator.next())
    generator.insert([PROMPTS[4]], [30])
    generator.next()
    generator.close()
    assert (0, ([], [])) == (generator.prompt_cache_nbytes, generator.next())
    assert [3] == generator.insert([PROMPTS[1]], [5])
    assert alone(target, PROMPTS[1], 5) == run(generator).tokens[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[1], []], "max_tokens": [1, 1]}, "prompts: number 1 is empty"),
        ({"prompts": [[1], [1]], "max_tokens": [1, 0]}, "max_tokens: number 1 is 0, allowed is 1 or more"),
        ({"prompts": [[1], [1]], "max_tokens": [1]}, "argument 2 is shorter"),
        ({"prompts": [[1]], "max_tokens": [1], "samplers": [None, None]}, "longer"),
    ],
)
def test_rows_that_cannot_be_are_refused_together(target: Any, arguments: dict[str, Any], message: str) -> None:
    generator = SequentialGenerator(target)
    with pytest.raises(ValueError, match=message):
        generator.insert(**arguments)
    assert ([], []) == generator.next()


def make_mamba() -> Any:
    return mamba.Model(
        mamba.ModelArgs(
            model_type="mamba",
            vocab_size=128,
            hidden_size=32,
            intermediate_size=64,
            state_size=8,
            num_hidden_layers=2,
            conv_kernel=4,
            use_bias=False,
            use_conv_bias=True,
            time_step_rank="auto",  # type: ignore[arg-type]
        )
    )


def make_llama4() -> Any:
    """Chunks of 16 tokens, so that texts begin new ones."""
    text = {
        **SMALL,
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": 16,
        "head_dim": 16,
        "interleave_moe_layer_step": 2,
        "intermediate_size": 32,
        "intermediate_size_mlp": 64,
        "max_position_embeddings": 512,
        "num_experts_per_tok": 1,
        "num_key_value_heads": 2,
        "num_local_experts": 2,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "use_qk_norm": True,
    }
    return llama4.Model(llama4.ModelArgs.from_dict({"model_type": "llama4", "text_config": text}))


def make_deepseek() -> Any:
    """A window of 16 tokens; one layer also keeps a summary of every 4 tokens."""
    return deepseek_v41.Model(
        deepseek_v41.ModelArgs.from_dict(
            {
                **SMALL,
                "num_hidden_layers": 2,
                "head_dim": 32,
                "q_lora_rank": 32,
                "qk_rope_head_dim": 16,
                "o_groups": 2,
                "o_lora_rank": 32,
                "moe_intermediate_size": 32,
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "sliding_window": 16,
                "compress_ratios": (0, 4),
                "kv_source_layer_ids": (1,),
                "index_source_layer_ids": (1,),
                "index_n_heads": 2,
                "index_head_dim": 32,
                "index_topk": 8,
                "hc_mult": 2,
            }
        )
    )


def make_windowed() -> Any:
    """A sliding window of 48 tokens, which cannot be taken back once it is full."""
    return llama_of(layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=48)


def seeded(make: Callable[[], Any], seed: int = 3) -> Any:
    mx.random.seed(seed)
    return sharper(make())


@pytest.mark.parametrize("make", [make_mamba, make_llama4, make_deepseek, make_windowed])
def test_models_with_other_caches_give_the_tokens_of_mlx_lm(make: Callable[[], Any]) -> None:
    model = seeded(make)
    prompts = [[token % 128 for token in PROMPTS[number]] for number in (0, 3, 4)]
    generator = SequentialGenerator(model)
    uids = generator.insert(prompts, [40] * len(prompts))
    came = run(generator)
    assert [alone(model, prompt, 40) for prompt in prompts] == [came.tokens[uid] for uid in uids]


@pytest.mark.parametrize("make", [make_llama4, make_deepseek])
def test_these_are_the_models_that_cannot_be_batched(make: Callable[[], Any]) -> None:
    generator: Any = BatchGenerator(seeded(make))
    generator.insert([[1, 2, 3]], max_tokens=[4])
    with pytest.raises(ValueError, match="does not yet support batching"):
        run(generator)


@pytest.mark.parametrize(("make", "kind"), [(make_mamba, "ArraysCache"), (make_deepseek, "LayerCache")])
def test_a_draft_is_refused_where_a_cache_cannot_be_cut_back(make: Callable[[], Any], kind: str, target: Any) -> None:
    fixed = seeded(make)
    with pytest.raises(ValueError, match=rf"^model: its cache \({kind}\) cannot be cut back"):
        SequentialGenerator(fixed, draft=target)
    with pytest.raises(ValueError, match=rf"^draft: its cache \({kind}\) cannot be cut back"):
        SequentialGenerator(target, draft=fixed)
    with pytest.raises(ValueError, match="draft_tokens is 0, allowed is 1 or more"):
        SequentialGenerator(target, draft=target, draft_tokens=0)


@pytest.mark.parametrize("make", [make_llama4, make_windowed])
@pytest.mark.parametrize("role", ["both", "model", "draft"])
def test_windows_and_chunks_are_drafted_for_as_long_as_they_can_be_cut_back(make: Callable[[], Any], role: str) -> None:
    special = seeded(make)
    plain = seeded(lambda: llama_of(num_hidden_layers=1), 4)
    model, draft = {"both": (special, special), "model": (special, plain), "draft": (plain, special)}[role]
    prompts = [[token % 128 for token in PROMPTS[number]] for number in (0, 3, 4)]
    expected = [alone(model, prompt, 40) for prompt in prompts]
    for count in (1, 5):
        generator = SequentialGenerator(model, draft=draft, draft_tokens=count, prefill_step_size=7)
        uids = generator.insert(prompts, [40] * len(prompts))
        came = run(generator)
        assert expected == [came.tokens[uid] for uid in uids]
        assert 10 < generator.drafted
        if role == "both":
            assert generator.accepted > 0.9 * generator.drafted
        reads = len([each for each in came.reads if each.uid == uids[-1]])
        assert 17 * (1 if make is make_windowed else 2) == reads


def test_no_more_is_drafted_than_can_come_into_the_text(target: Any) -> None:
    for count, drafted in ((1, 0), (2, 1), (5, 4), (24, 19)):
        generator = SequentialGenerator(target, draft=target, draft_tokens=4)
        generator.insert([PROMPTS[0]], [count])
        assert count == len(run(generator).tokens[0])
        assert (drafted, drafted) == (generator.drafted, generator.accepted)
