"""Attention and GELU, by whatever is fastest where they run.

On Linux CPUs MLX takes exponentials one at a time, 20 ns each: a softmax takes longer than all products of its layer,
and each of the twenty operations of a GELU costs a hand-over to another thread. NumPy's functions are vectorised, under
1 ns for a number, and run where they are called. Elsewhere MLX's own are used.
"""

from __future__ import annotations

import sys
from math import sqrt
from typing import Any, Final, Protocol

import mlx.core as mx

_GELU_CLIP: Final = 3.6 * sqrt(2)
_GELU_P: Final = (0.398941869, 0.0557667349, 0.00576900348, 0.000363999525, 4.80455604e-06, -1.49326591e-08)
_GELU_Q: Final = (1.0, 0.3064463, 0.0405480377, 0.00297438053, 0.000122095394)
"""Phi(x) - 1/2 as x P(x^2) / Q(x^2), a minimax fit to math.erf on |x| <= 3.6 sqrt 2; GELU errs by less than 3e-6 for
|x| <= 8, and by less than 5e-7 |x| beyond.

``mx.erf`` takes 30 ns an element on the CPU, more than the matrix product before it; this takes 6 ns.
"""

_TANH_CLIP: Final = 6.0
_TANH: Final = (
    0.797884217,
    0.0363342815,
    -3.31284882e-05,
    -5.52406096e-05,
    3.96917095e-06,
    -1.33450193e-07,
    1.8057008e-09,
)
"""2 Phi(x) - 1 as tanh(x T(x^2)), fitted by weighted least squares to math.erfc on |x| <= 6; GELU errs by less than
1e-6 for |x| <= 8, and by less than 1e-7 |x| beyond.
"""

_BLOCK: Final = 32_768
"""Floats that go through all steps of a GELU before the next ones do, so that they stay in the second level cache."""


class Kernels(Protocol):
    """The two functions of the encoder that have several implementations."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
        """Return scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

        ``q``, ``k`` and ``v`` are of shape ``(batch, heads, length, width)``; ``mask`` is added to the scores.
        """

    def gelu(self, x: mx.array) -> mx.array:
        """Return x Phi(x), the exact GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415), not its tanh approximation."""


def choose_kernels() -> Kernels:
    """Return the kernels for this device."""
    if sys.platform == "darwin" or mx.default_device() != mx.Device(mx.cpu):
        return MlxKernels()
    try:
        import numpy as np
    except ImportError:
        return MlxKernels()
    return NumpyKernels(np)


class MlxKernels:
    """By MLX alone, on its default device."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
        """See :class:`Kernels`."""
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)

    def gelu(self, x: mx.array) -> mx.array:
        """See :class:`Kernels`."""
        z = mx.clip(x, -_GELU_CLIP, _GELU_CLIP)
        t = z * z
        p = t * _GELU_P[-1] + _GELU_P[-2]
        for coefficient in _GELU_P[-3::-1]:
            p = p * t + coefficient
        q = t * _GELU_Q[-1] + _GELU_Q[-2]
        for coefficient in _GELU_Q[-3::-1]:
            q = q * t + coefficient
        return x * (z * p / q + 0.5)


class NumpyKernels:
    """Products by MLX, all else by NumPy on the same memory.

    Args:
        numpy: the module, which is imported only where it is used.
    """

    def __init__(self, numpy: Any) -> None:
        self._numpy = numpy
        self._spare = numpy.empty((3, _BLOCK), numpy.float32)

    def attend(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
        """See :class:`Kernels`."""
        numpy = self._numpy
        scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)
        if mask is not None:
            scores = scores + mask
        mx.eval(scores)
        seen = numpy.asarray(scores)
        with numpy.errstate(all="ignore"):  # What is not finite shows in the vectors, where it is looked for.
            weights = seen - seen.max(axis=-1, keepdims=True)
            numpy.exp(weights, out=weights)
            weights /= weights.sum(axis=-1, keepdims=True)
        return mx.array(weights) @ v

    def gelu(self, x: mx.array) -> mx.array:
        """See :class:`Kernels`."""
        numpy = self._numpy
        mx.eval(x)
        given = numpy.asarray(x).reshape(-1)
        result = numpy.empty_like(given)
        with numpy.errstate(all="ignore"):  # as above
            for start in range(0, given.size, _BLOCK):
                self._gelu_block(given[start : start + _BLOCK], result[start : start + _BLOCK])
        return mx.array(result.reshape(x.shape))

    def _gelu_block(self, x: Any, out: Any) -> None:
        numpy = self._numpy
        z, t, p = self._spare[:, : x.size]
        numpy.clip(x, -_TANH_CLIP, _TANH_CLIP, out=z)
        numpy.multiply(z, z, out=t)
        numpy.multiply(t, _TANH[-1], out=p)
        for coefficient in _TANH[-2:0:-1]:
            p += coefficient
            p *= t
        p += _TANH[0]
        p *= z
        numpy.tanh(p, out=p)
        p += 1.0
        p *= 0.5
        numpy.multiply(p, x, out=out)
