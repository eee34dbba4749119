"""How much memory the key-value caches may take, and what a text will take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_mesh_wire import MeshOutOfMemoryError
from mlx_mesh_worker.engines.mlx_memory import device_working_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_mesh_worker.engines.generate.settings import GenerateSettings

DEVICE_SHARE: Final = 0.9
"""Of what the device recommends as a working set, the rest is for activations."""

HOST_SHARE: Final = 0.5
"""Of the memory that is available on a machine without a device of its own: others live there too."""

PROBES: Final = (256, 512)
"""Lengths at which the caches are measured; mlx-lm gives them room in steps of 256 tokens."""

CACHE_SHARE: Final = 0.1
CACHE_MIN: Final = 256 * 2**20


class TokenBytes:
    """What the caches of one text take, measured; those of all models that read it (None is no model).

    Attributes:
        fixed: bytes of any text, such as the states of recurrent layers.
        each: bytes of a token.
    """

    def __init__(self, *models: Any) -> None:
        few, many = (_measure(models, tokens) for tokens in PROBES)
        self.each = max(0, many - few) // (PROBES[1] - PROBES[0])
        self.fixed = max(0, few - PROBES[0] * self.each)

    def of(self, tokens: int) -> int:
        """Return the bytes of a text of so many tokens, at most (a sliding window takes less)."""
        return self.fixed + self.each * tokens


def kv_limit(settings: GenerateSettings) -> int:
    """Return the bytes that all key-value caches may take; call it when the model is loaded."""
    given = settings.kv_max_bytes
    if isinstance(given, int):
        return given
    working_set = device_working_set(mx)
    if working_set:
        return max(2**20, int(working_set * DEVICE_SHARE) - mx.get_active_memory())
    import psutil

    return max(2**20, int(psutil.virtual_memory().available * HOST_SHARE))


def apply_limits(settings: GenerateSettings) -> None:
    """Bound what MLX keeps of freed memory, and what macOS may not page out."""
    if settings.cache_limit != "off":
        limit = settings.cache_limit
        mx.set_cache_limit(limit if isinstance(limit, int) else _cache_limit())
    wired = settings.wired_limit
    if wired != "off" and mx.metal.is_available():
        mx.set_wired_limit(wired if isinstance(wired, int) else device_working_set(mx))


def too_large(needed: int, limit: int, tokens: int) -> MeshOutOfMemoryError:
    """Return the error of a text that can never fit."""
    text = f"{tokens} tokens of prompt and answer need {needed} bytes, the worker has {limit}; ask for fewer max_tokens"
    return MeshOutOfMemoryError(text, retryable=False, details={"needed": needed, "limit": limit, "tokens": tokens})


def too_full(needed: int, limit: int, taken: int) -> MeshOutOfMemoryError:
    """Return the error of a text for which no memory became free in time."""
    text = f"the text needs {needed} bytes, of {limit} others took {taken} until its deadline"
    return MeshOutOfMemoryError(text, details={"needed": needed, "limit": limit, "taken": taken})


def _cache_limit() -> int:
    import psutil

    total = device_working_set(mx) or psutil.virtual_memory().total
    return max(CACHE_MIN, int(total * CACHE_SHARE))


def read_blank(model: Any, tokens: int) -> list[Any]:
    """Let a model read so many tokens of a text that says nothing; return the cache."""
    cache = make_prompt_cache(model)
    model(mx.zeros((1, tokens), mx.int32), cache=cache)
    mx.eval([layer.state for layer in cache])
    return cache


def _measure(models: Sequence[Any], tokens: int) -> int:
    return sum(int(layer.nbytes) for model in models if model is not None for layer in read_blank(model, tokens))
