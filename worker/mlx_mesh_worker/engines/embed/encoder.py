"""The BERT encoder (Devlin et al. 2018, arXiv:1810.04805) on MLX: token ids to sentence vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from mlx_mesh_worker.engines.embed.batcher import padded
from mlx_mesh_worker.engines.embed.kernels import choose_kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_worker.engines.embed.config import EncoderConfig


class _Linear(NamedTuple):
    weight: mx.array
    bias: mx.array

    def __call__(self, x: mx.array) -> mx.array:
        return mx.addmm(self.bias, x, self.weight)


class _Norm(NamedTuple):
    weight: mx.array
    bias: mx.array
    eps: float

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)


class _Layer(NamedTuple):
    attend: _Linear
    project: _Linear
    norm_attention: _Norm
    widen: _Linear
    narrow: _Linear
    norm_output: _Norm


class Encoder:
    """Weights and forward pass.

    Args:
        config: sizes, pooling.
        weights: float32 tensors by their checkpoint names, prefix removed.
    """

    def __init__(self, config: EncoderConfig, weights: dict[str, mx.array]) -> None:
        self._config = config
        self._words = weights["embeddings.word_embeddings.weight"]
        # The second kind of token is for sentence pairs; for one sentence its vector is a constant.
        types = weights["embeddings.token_type_embeddings.weight"][0]
        self._positions = weights["embeddings.position_embeddings.weight"][config.position_offset :] + types
        self._norm = self._norm_of(weights, "embeddings.LayerNorm")
        self._layers = [self._layer(weights, f"encoder.layer.{index}.") for index in range(config.layers)]
        kernels = choose_kernels()
        self._attend = kernels.attend
        self._activate = kernels.gelu if config.activation == "gelu" else _relu
        mx.eval([self._positions, *[tensor for layer in self._layers for part in layer[:2] for tensor in part]])

    @property
    def dimension(self) -> int:
        """Floats per vector."""
        return self._config.hidden

    @property
    def vocabulary(self) -> int:
        """Tokens that have an embedding; the vector of any other id would be whatever lies in memory there."""
        return int(self._words.shape[0])

    def __call__(self, ids: Sequence[Sequence[int]]) -> mx.array:
        """Return sentence vectors, float32 of shape ``(len(ids), dimension)``, as the model's pooling makes them."""
        lengths = [len(row) for row in ids]
        width = min(padded(max(lengths)), self._positions.shape[0])
        pad = self._config.pad_id
        tokens = mx.array([[*row, *[pad] * (width - len(row))] for row in ids], dtype=mx.int32)
        keep = mx.arange(width) < mx.array(lengths)[:, None]
        mask = None if min(lengths) == width else mx.where(keep, 0.0, -1e9)[:, None, None, :].astype(mx.float32)
        x = self._norm(self._words[tokens] + self._positions[:width])
        for layer in self._layers:
            x = self._forward(layer, x, mask)
        return self._pool(x, keep.astype(mx.float32)[:, :, None], lengths)

    def _forward(self, layer: _Layer, x: mx.array, mask: mx.array | None) -> mx.array:
        rows, width, hidden = x.shape
        heads = self._config.heads
        q, k, v = layer.attend(x).reshape(rows, width, 3, heads, hidden // heads).transpose(2, 0, 3, 1, 4)
        mixed = self._attend(q, k, v, mask)
        x = layer.norm_attention(x + layer.project(mixed.transpose(0, 2, 1, 3).reshape(rows, width, hidden)))
        return layer.norm_output(x + layer.narrow(self._activate(layer.widen(x))))

    def _pool(self, x: mx.array, keep: mx.array, lengths: list[int]) -> mx.array:
        pooling = self._config.pooling
        if pooling == "cls":
            return mx.contiguous(x[:, 0])  # its bytes are read as they lie
        if pooling == "lasttoken":
            return x[mx.arange(len(lengths)), mx.array(lengths) - 1]
        if pooling == "max":
            return mx.where(keep > 0, x, -1e9).max(axis=1)
        count = keep.sum(axis=1)
        return (x * keep).sum(axis=1) / (mx.sqrt(count) if pooling == "mean_sqrt_len" else count)

    def _norm_of(self, weights: dict[str, mx.array], name: str) -> _Norm:
        return _Norm(weights[name + ".weight"], weights[name + ".bias"], self._config.norm_eps)

    def _layer(self, weights: dict[str, mx.array], base: str) -> _Layer:
        def linear(*names: str) -> _Linear:
            weight = mx.concatenate([weights[f"{base}{name}.weight"] for name in names], axis=0)
            return _Linear(weight.T, mx.concatenate([weights[f"{base}{name}.bias"] for name in names]))

        return _Layer(
            attend=linear("attention.self.query", "attention.self.key", "attention.self.value"),
            project=linear("attention.output.dense"),
            norm_attention=self._norm_of(weights, base + "attention.output.LayerNorm"),
            widen=linear("intermediate.dense"),
            narrow=linear("output.dense"),
            norm_output=self._norm_of(weights, base + "output.LayerNorm"),
        )


def _relu(x: mx.array) -> mx.array:
    return mx.maximum(x, 0)
