"""Attention and gates on Linux CPUs, where MLX takes exponentials one at a time.

A softmax of MLX takes 30 ns a number there and the gate of a feed-forward layer 24 ns, more than the products beside
them; NumPy's functions are vectorised and take 1 to 3 ns. They work on the same memory. mlx-lm's models find the
functions by their names in their own module, which is where they are replaced. On other devices nothing is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    Array = np.ndarray[Any, np.dtype[np.float32]]

MODELS: Final = "mlx_lm.models."

_ATTEND: Final = "scaled_dot_product_attention"
_GATE: Final = "swiglu"

_BLOCK: Final = 131_072
"""Numbers that go through all steps of a softmax before the next ones do, so that they stay in the cache."""

_HIDDEN: Final = float(np.finfo(np.float32).min)
"""Score of a key that is not to be seen: not minus infinity, since there are padded rows that see none."""


class Replaced:
    """The functions of a model that were replaced; :meth:`undo` brings mlx-lm's own back."""

    def __init__(self, model: Any) -> None:
        self._modules = list(_modules_of(model)) if slow_exponentials() else []
        for module in self._modules:
            for name, make in ((_ATTEND, _attention), (_GATE, _gate)):
                own = getattr(module, name, None)
                if own is not None and not hasattr(own, "replaces"):
                    setattr(module, name, make(own))

    def undo(self) -> None:
        """Bring mlx-lm's own functions back, whoever replaced them."""
        for module in self._modules:
            for name in (_ATTEND, _GATE):
                own = getattr(getattr(module, name, None), "replaces", None)
                if own is not None:
                    setattr(module, name, own)


def slow_exponentials() -> bool:
    """Whether MLX computes on a CPU whose exponentials it does not vectorise."""
    return sys.platform == "linux" and mx.default_device() == mx.Device(mx.cpu)


def _modules_of(model: Any) -> Iterator[Any]:
    names = {type(part).__module__ for part in model.modules()}
    return (sys.modules[name] for name in sorted(names) if name.startswith(MODELS))


def _attention(own: Any) -> Any:
    def attend(  # noqa: PLR0917  as mlx-lm's function
        queries: mx.array, keys: mx.array, values: mx.array, cache: Any, scale: float, mask: Any, sinks: Any = None
    ) -> mx.array:
        """Return scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762), as mlx-lm's function does.

        ``queries`` are of shape ``(batch, heads, length, width)``; keys and values may have fewer heads.
        """
        plain = queries.dtype == keys.dtype == mx.float32 and sinks is None and not hasattr(cache, "bits")
        if not plain or not _fits(mask):
            return own(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)  # type: ignore[no-any-return]
        batch, heads, length, width = queries.shape
        shared = keys.shape[1]
        grouped = (queries * scale).reshape(batch, shared, heads // shared * length, width)
        scores = grouped @ keys.swapaxes(-1, -2)
        mx.eval(scores, *([mask] if isinstance(mask, mx.array) else []))
        seen = np.asarray(scores).reshape(batch, shared, heads // shared, length, keys.shape[2])
        with np.errstate(all="ignore"):  # What is not finite shows in the logits, where it is looked for.
            _softmax(seen, mask)
        return (scores @ values).reshape(batch, heads, length, values.shape[-1])

    attend.replaces = own  # type: ignore[attr-defined]
    return attend


def _fits(mask: Any) -> bool:
    """Whether the mask is one of those that are known here: causal, or the same for all heads."""
    if mask is None or isinstance(mask, str):
        return mask in (None, "causal")
    return bool(mask.ndim == 2 or (mask.ndim == 4 and mask.shape[1] == 1))  # noqa: PLR2004  (length, keys), or with batch and heads


def _softmax(scores: Array, mask: Any) -> None:
    """Turn scores, of shape ``(batch, shared heads, group, length, keys)``, into weights in place."""
    batch, shared, group, length, keys = scores.shape
    given = None if mask is None or isinstance(mask, str) else np.asarray(mask)
    if given is not None:
        given = given.reshape((1, 1, 1, *given.shape) if given.ndim == 2 else (given.shape[0], 1, *given.shape[1:]))  # noqa: PLR2004  as above
    causal = isinstance(mask, str)
    if scores.size <= _BLOCK and not causal:
        _weigh(scores, given)
        return
    rows = max(1, _BLOCK // (group * keys))
    for b in range(batch):
        for h in range(shared):
            for start in range(0, length, rows):
                end = min(length, start + rows)
                block = scores[b, h, :, start:end]
                if causal:
                    _weigh_causal(block, keys - length + start)
                else:
                    _weigh(block, None if given is None else _part(given, b, start, end))


def _part(mask: Any, b: int, start: int, end: int) -> Any:
    own = mask[b if mask.shape[0] > 1 else 0, 0]
    return own[:, start:end] if own.shape[1] > 1 else own


def _weigh_causal(block: Array, first: int) -> None:
    """Weigh rows of which the first one sees the keys up to number ``first``, each further one a key more."""
    rows = block.shape[-2]
    block[..., first + rows :] = 0.0
    near = block[..., : first + rows]
    hidden = np.arange(first + 1, first + rows) > np.arange(first, first + rows)[:, None]
    np.copyto(near[..., first + 1 :], _HIDDEN, where=hidden)
    _weigh(near, None)


def _weigh(scores: Array, mask: Any) -> None:
    if mask is not None:
        if mask.dtype == np.bool_:
            np.copyto(scores, _HIDDEN, where=~mask)
        else:
            scores += mask
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)


def _gate(own: Any) -> Any:
    def swiglu(gate: mx.array, x: mx.array) -> mx.array:
        """Return ``silu(gate) * x`` (Shazeer 2020, arXiv:2002.05202)."""
        if not gate.dtype == x.dtype == mx.float32 or gate.shape != x.shape:
            return own(gate, x)  # type: ignore[no-any-return]
        mx.eval(gate, x)
        given, factor = np.asarray(gate).reshape(-1), np.asarray(x).reshape(-1)
        result = np.empty_like(given)
        with np.errstate(all="ignore"):  # as above
            for start in range(0, given.size, _BLOCK // 4):
                part = slice(start, start + _BLOCK // 4)
                out = result[part]
                np.negative(given[part], out=out)
                np.exp(out, out=out)
                out += 1.0
                np.divide(given[part], out, out=out)
                out *= factor[part]
        return mx.array(result.reshape(gate.shape))

    swiglu.replaces = own  # type: ignore[attr-defined]
    return swiglu
