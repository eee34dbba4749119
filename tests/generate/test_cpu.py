"""What is computed by NumPy on Linux CPUs is what MLX computes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx_lm.models.llama
import numpy as np
import pytest
from mlx_lm.models.activations import swiglu
from mlx_lm.models.base import create_causal_mask, scaled_dot_product_attention

from mlx_mesh_worker.engines.generate import GenerateEngine, cpu
from mlx_mesh_worker.engines.generate.cpu import Replaced, slow_exponentials
from tests.generate.driver import loaded_by

pytestmark = pytest.mark.skipif(not slow_exponentials(), reason="only CPUs under Linux have functions replaced")

HIDDEN = float(np.finfo(np.float32).min)


WIDTH = 16


def arrays(batch: int, heads: int, shared: int, length: int, keys: int) -> tuple[mx.array, ...]:
    made, width = mx.random.normal, WIDTH
    sizes = ((batch, heads, length, width), (batch, shared, keys, width), (batch, shared, keys, width))
    return tuple(made(size, key=mx.random.key(n)) * 2 for n, size in enumerate(sizes))


def lengths_mask(batch: int, keys: int) -> mx.array:
    return (mx.arange(keys)[None] <= mx.array([3 + 2 * n for n in range(batch)])[:, None])[:, None, None]


MASKS: dict[str, tuple[tuple[int, int, int, int, int], Any]] = {
    "one token, none": ((1, 8, 8, 1, 40), lambda: None),
    "one token, grouped": ((1, 8, 2, 1, 40), lambda: None),
    "rows of different lengths": ((5, 4, 2, 1, 30), lambda: lengths_mask(5, 30)),
    "causal": ((1, 4, 2, 24, 24), lambda: "causal"),
    "causal behind others": ((1, 4, 2, 24, 100), lambda: "causal"),
    "causal in a batch": ((3, 4, 2, 9, 20), lambda: "causal"),
    "causal as an array": ((1, 4, 2, 24, 40), lambda: create_causal_mask(24, offset=16)),
    "a window": ((1, 4, 2, 24, 40), lambda: create_causal_mask(24, offset=16, window_size=8)),
    "padded on the left": ((2, 4, 2, 6, 10), lambda: create_causal_mask(6, offset=4, left_padding=mx.array([0, 3]))),
    "added": ((2, 4, 2, 6, 10), lambda: mx.where(create_causal_mask(6, offset=4), 0.0, HIDDEN)),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("block", [64, 131_072], ids=["in blocks", "at once"])
def test_attention_is_that_of_mlx(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_BLOCK", block)
    size, make = MASKS[name]
    queries, keys, values = arrays(*size)
    mask = make()
    own: Any = scaled_dot_product_attention
    expected = own(queries, keys, values, cache=None, scale=0.25, mask=mask)
    found = cpu._attention(own)(queries, keys, values, cache=None, scale=0.25, mask=mask)
    assert np.allclose(np.asarray(expected), np.asarray(found), atol=2e-6)


def test_rows_that_see_nothing_give_numbers() -> None:
    """Padded places of a batch see no key; what is computed there is read again by nobody, but must be finite."""
    queries, keys, values = arrays(1, 2, 2, 2, 8)
    mask = mx.zeros((1, 1, 2, 8), dtype=mx.bool_)
    own: Any = scaled_dot_product_attention
    found = cpu._attention(own)(queries, keys, values, cache=None, scale=0.25, mask=mask)
    assert mx.all(mx.isfinite(found)).item()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_other_types_are_left_to_mlx(dtype: mx.Dtype) -> None:
    called = []

    def own(*args: Any, **kwargs: Any) -> Any:
        called.append(args)
        return args[0]

    half = [each.astype(dtype) for each in arrays(1, 2, 2, 1, 8)]
    cpu._attention(own)(*half, cache=None, scale=0.25, mask=None)
    cpu._gate(own)(half[0], half[0])
    assert 2 == len(called)


@pytest.mark.parametrize("shape", [(1, 1, 7), (32, 1, 1408), (1, 70, 2000)], ids=str)
def test_the_gate_is_silu_times_the_other(shape: tuple[int, ...]) -> None:
    gate, x = (mx.random.normal(shape, key=mx.random.key(n)) * 30 for n in range(2))
    own: Any = swiglu
    given, factor = np.asarray(gate).astype(np.float64), np.asarray(x).astype(np.float64)
    expected = given / (1 + np.exp(-given)) * factor
    assert np.allclose(expected, np.asarray(cpu._gate(own)(gate, x)), rtol=1e-6, atol=1e-30)
    assert np.allclose(expected, np.asarray(own(gate, x)), rtol=1e-4, atol=1e-30)


def test_what_was_replaced_comes_back(engine: GenerateEngine) -> None:
    loaded = loaded_by(engine)
    module: Any = mlx_lm.models.llama
    assert hasattr(module.swiglu, "replaces")
    for replaced in loaded.replaced:
        replaced.undo()
    assert not hasattr(module.swiglu, "replaces")
    assert module.scaled_dot_product_attention is scaled_dot_product_attention
    loaded.replaced = [Replaced(loaded.model)]
    assert hasattr(module.swiglu, "replaces")
