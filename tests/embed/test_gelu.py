"""The encoder's own GELU against the error function."""

from __future__ import annotations

from math import erfc, sqrt

import mlx.core as mx
import numpy as np

from mlx_mesh_worker.engines.embed.encoder import gelu


def test_gelu_errs_by_less_than_it_says_over_the_whole_range() -> None:
    x = np.concatenate([np.linspace(-12, 12, 20_001), np.geomspace(12, 1e6, 200), -np.geomspace(12, 1e6, 200)])
    x = x.astype(np.float32)
    exact = np.array([value * erfc(-value / sqrt(2)) / 2 for value in x.astype(np.float64)])
    error = np.abs(np.array(gelu(mx.array(x))) - exact)
    assert (error < np.where(np.abs(x) <= 8, 3e-6, 5e-7 * np.abs(x))).all()


def test_gelu_of_what_is_not_finite_is_not_finite() -> None:
    assert not np.isfinite(np.array(gelu(mx.array([float("nan"), float("inf")])))).any()
