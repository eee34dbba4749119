"""Both sets of kernels against the definitions, in double precision."""

from __future__ import annotations

from math import erfc, sqrt

import mlx.core as mx
import numpy as np
import pytest

from mlx_mesh_worker.engines.embed import kernels
from mlx_mesh_worker.engines.embed.kernels import Kernels, MlxKernels, NumpyKernels, choose_kernels

each_kernel = pytest.mark.parametrize("chosen", [MlxKernels(), NumpyKernels(np)], ids=["mlx", "numpy"])


@each_kernel
def test_gelu_errs_by_less_than_it_says_over_the_whole_range(chosen: Kernels) -> None:
    x = np.concatenate([np.linspace(-12, 12, 40_001), np.geomspace(12, 1e6, 200), -np.geomspace(12, 1e6, 200)])
    x = x.astype(np.float32)
    exact = np.array([value * erfc(-value / sqrt(2)) / 2 for value in x.astype(np.float64)])
    error = np.abs(np.array(chosen.gelu(mx.array(x))) - exact)
    near, far = (3e-6, 5e-7) if isinstance(chosen, MlxKernels) else (1e-6, 1e-7)
    assert (error < np.where(np.abs(x) <= 8, near, far * np.abs(x))).all()


@each_kernel
def test_gelu_of_what_is_not_finite_is_not_finite(chosen: Kernels) -> None:
    assert not np.isfinite(np.array(chosen.gelu(mx.array([float("nan"), float("inf")])))).any()


@each_kernel
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_mean_of_values_by_the_softmax_of_scaled_scores(chosen: Kernels, masked: bool) -> None:
    chance = np.random.default_rng(3)
    q, k, v = (chance.normal(size=(2, 3, 9, 8)).astype(np.float32) * 3 for _ in range(3))
    mask = np.where(chance.random((2, 1, 1, 9)) < 0.5, 0.0, -1e9).astype(np.float32) if masked else None
    scores = (q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2)) / sqrt(8)
    weights = np.exp(scores + (0 if mask is None else mask) - scores.max(-1, keepdims=True))
    exact = weights / weights.sum(-1, keepdims=True) @ v
    given = [mx.array(x) for x in (q, k, v)]
    found = np.array(chosen.attend(*given, None if mask is None else mx.array(mask)))
    assert np.abs(found - exact).max() < 1e-5


@each_kernel
def test_attention_of_scores_too_large_for_an_exponential_is_finite(chosen: Kernels) -> None:
    q = mx.full((1, 1, 4, 8), 1e4)
    assert np.isfinite(np.array(chosen.attend(q, q, q, None))).all()


def test_a_machine_without_numpy_goes_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.sys.modules, "numpy", None)
    assert isinstance(choose_kernels(), MlxKernels)
