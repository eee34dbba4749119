"""BERT once more, in float64 and one text at a time, to compare the encoder with; it shares nothing with it."""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def hidden_states(tensors: dict[str, NDArray[Any]], config: dict[str, Any], ids: list[int]) -> Array:
    """Return the last layer's output, a row for each token."""
    weights = {name: value.astype(np.float64) for name, value in tensors.items()}
    # RoBERTa numbers positions from one after the padding id (fairseq's make_positions).
    start = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1
    rows = [
        weights["embeddings.word_embeddings.weight"][token]
        + weights["embeddings.position_embeddings.weight"][start + place]
        + weights["embeddings.token_type_embeddings.weight"][0]
        for place, token in enumerate(ids)
    ]
    eps = config.get("layer_norm_eps", 1e-12)
    x = norm(np.array(rows), weights, "embeddings.LayerNorm", eps)
    for layer in range(config["num_hidden_layers"]):
        base = f"encoder.layer.{layer}."
        attended = attention(x, weights, base + "attention.self.", config["num_attention_heads"])
        x = norm(x + linear(attended, weights, base + "attention.output.dense"), weights,
                 base + "attention.output.LayerNorm", eps)  # fmt: skip
        wide = activate(linear(x, weights, base + "intermediate.dense"), config["hidden_act"])
        x = norm(x + linear(wide, weights, base + "output.dense"), weights, base + "output.LayerNorm", eps)
    return x


def attention(x: Array, weights: dict[str, Array], base: str, heads: int) -> Array:
    """Scaled dot-product attention, a head at a time."""
    query, key, value = (linear(x, weights, base + name) for name in ("query", "key", "value"))
    size = x.shape[1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / np.sqrt(size)
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed.append(likely / likely.sum(axis=1, keepdims=True) @ value[:, part])
    return np.concatenate(mixed, axis=1)


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    """Return x W^T + b."""
    return np.asarray(x @ weights[name + ".weight"].T + weights[name + ".bias"])


def norm(x: Array, weights: dict[str, Array], name: str, eps: float) -> Array:
    """Layer normalisation with the biased variance."""
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps)
    return np.asarray(scaled * weights[name + ".weight"] + weights[name + ".bias"])


def activate(x: Array, name: str) -> Array:
    """The exact GELU, or ReLU."""
    if name == "relu":
        return np.where(x > 0, x, 0)
    return np.asarray(x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2)


def pool(x: Array, how: str) -> Array:
    """Return the vector of a text from those of its tokens."""
    if how == "cls":
        return np.asarray(x[0])
    if how == "lasttoken":
        return np.asarray(x[-1])
    if how == "max":
        return np.asarray(x.max(axis=0))
    return np.asarray(x.sum(axis=0) / (np.sqrt(len(x)) if how == "mean_sqrt_len" else len(x)))


def unit(vector: Array) -> Array:
    """Return the vector with length 1."""
    return np.asarray(vector / np.sqrt((vector**2).sum()))
