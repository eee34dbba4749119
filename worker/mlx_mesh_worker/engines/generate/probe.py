"""Whether a model gives the same for a text in a batch as alone: tried out with a few tokens when it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_mesh_worker.engines.generate.batch import DecodeBatch

if TYPE_CHECKING:
    from mlx_mesh_worker.engines.generate.row import Row

LENGTHS: Final = (3, 12, 7, 5)
"""Tokens of the texts that are tried."""

STEPS: Final = 2
DIFFERENCE_MAX: Final = 0.2
"""Logits may differ by so much of their own spread. Rounding makes about 0.02 in half precision; a key that should not
have been seen, or a wrong position, makes more than 0.3."""

FEW: Final = 1
"""So many texts may differ by more: of two experts that weigh the same, rounding may choose the other one."""


class _Text(NamedTuple):
    context: list[int]
    processors: tuple[()] = ()


def why_alone(model: Any) -> str:
    """Return why texts of this model cannot be batched; empty if they can."""
    lacking = sorted({name for layer in make_prompt_cache(model) for name in _lacking(layer)})
    if lacking:
        return f"{', '.join(lacking)} cannot be batched"
    try:
        differing = _differing(model)
    except Exception as error:  # noqa: BLE001  whatever it is, alone the model may do well
        return f"its batches fail: {type(error).__name__}: {error}"[:120]
    return "its batches give other numbers" if differing > FEW else ""


def _lacking(layer: Any) -> set[str]:
    """Return the kinds of caches in a layer that cannot be merged."""
    if hasattr(layer, "caches"):
        return {name for each in layer.caches for name in _lacking(each)}
    return set() if hasattr(layer, "merge") else {type(layer).__name__}


def _differing(model: Any) -> int:
    """Return how many texts get other logits in a batch than alone."""
    texts = [_Text([(7 * place + 13 * length) % 61 + 2 for place in range(length)]) for length in LENGTHS]
    alone = [make_prompt_cache(model) for _ in texts]
    batch = DecodeBatch(model, max(LENGTHS) + STEPS, len(texts))
    for text, cache in zip(texts, alone, strict=True):
        model(mx.array([text.context[:-1]]), cache=cache)
        batch.join(cast("Row", text), cache, text.context[-1])
    differing = set()
    for step in range(STEPS):
        together = batch.logits()
        for place, (text, cache) in enumerate(zip(texts, alone, strict=True)):
            token = step or text.context[-1]
            logits = model(mx.array([[token]]), cache=cache)[:, -1, :]
            if not _alike(logits[0], together[place]):
                differing.add(place)
        batch.follow(mx.full(len(texts), step + 1, mx.int32))
    return len(differing)


def _alike(one: mx.array, other: mx.array) -> bool:
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    spread = mx.linalg.norm(one - mx.mean(one))
    return bool(mx.linalg.norm(one - other) <= DIFFERENCE_MAX * spread)
