"""Weights as mlx-lm writes them, quantised or with an adapter: the tokens are those of mlx-lm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.generate import stream_generate
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_config, quantize_model, save

from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.engines.generate import GenerateEngine
from tests.generate.driver import Driver, make_engine

pytestmark = pytest.mark.slow

PROMPTS = ["a", "Once upon a time", "The second of many", "12 x of what is to be said of it " * 3, "é"]
RANK = 4


@pytest.fixture(scope="module")
def adapter(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``mlx_lm.lora`` writes it, with random weights."""
    folder = tmp_path_factory.mktemp("adapter")
    parameters = {"rank": RANK, "scale": 8.0, "dropout": 0.0}
    model: Any = load(str(llama))[0]
    model.freeze()
    linear_to_lora_layers(model, 2, parameters)
    mx.random.seed(1)
    weights = {name: mx.random.normal(value.shape) * 0.05 for name, value in tree_flatten(model.trainable_parameters())}
    assert any("lora_b" in name for name in weights)
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def reference(folder: Path, count: int, **how: Any) -> list[list[int]]:
    """Return mlx-lm's own greedy tokens."""
    model, tokenizer = load(str(folder), **how)[:2]
    found = [[r.token for r in stream_generate(model, tokenizer, prompt, max_tokens=count)] for prompt in PROMPTS]
    return [[token for token in tokens if token not in tokenizer.eos_token_ids] for tokens in found]


def generated(engine: GenerateEngine, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens of all prompts alone, and those side by side with others that join and leave."""
    bodies = [{"prompt": prompt, "max_tokens": count} for prompt in PROMPTS]
    driver = Driver(engine)
    alone = [driver.all(body)[0] for body in bodies]
    jobs = []
    for body in bodies:
        jobs += [driver.submit({**body, "max_tokens": 3}), driver.submit(body)]
        for _ in range(4):
            driver.turn()
    driver.run(*jobs)
    return alone, [driver.tokens(job) for job in jobs[1::2]]


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_give_the_tokens_of_mlx_lm_alone_and_beside_others(
    llama: Path, tmp_path: Path, bits: int
) -> None:
    model, tokenizer = load(str(llama))[:2]
    quantised, config = quantize_model(model, load_config(llama), group_size=32, bits=bits)
    save(tmp_path / "quantised", str(llama), quantised, tokenizer, config)
    engine = make_engine(tmp_path / "quantised")
    assert ["continuous"] == list(engine.about().values())
    expected = reference(tmp_path / "quantised", 24)
    assert (expected, expected) == generated(engine, 24)
    if bits == 4:
        assert expected != reference(llama, 24)


def test_an_adapter_gives_the_tokens_that_mlx_lm_gives_with_it(llama: Path, adapter: Path) -> None:
    expected = reference(llama, 20, adapter_path=str(adapter))
    assert (expected, expected) == generated(make_engine(llama, adapter=str(adapter)), 20)
    assert expected != reference(llama, 20)


def test_a_folder_that_is_no_adapter_is_refused_and_the_flag_named(llama: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match=r"--adapter: .* has no adapter_config.json"):
        make_engine(llama, adapter=str(tmp_path))
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    mx.save_safetensors(str(broken / "adapters.safetensors"), {"model.layers.9.lora_a": mx.zeros((2, 2))})
    with pytest.raises(EngineLoadError, match=r"--adapter .*incompatible tensors"):
        make_engine(llama, adapter=str(broken))
