"""What MLX keeps of freed memory for its next step."""

from __future__ import annotations

from typing import Any, Final

TIGHT_MAX_BYTES: Final = 64 * 2**20
"""What it may keep while memory is short: the buffers of a small step, so that steps do not become slow of it."""


class MlxCache:
    """Gives back what MLX keeps, and bounds it while memory is short.

    Args:
        mx: ``mlx.core``, which is imported after its BLAS and not here.
    """

    def __init__(self, mx: Any) -> None:
        self._mx = mx
        self._usual: int | None = None

    def trim(self, level: int) -> None:
        """Let go of what is kept from level 1 on, keep little from level 2 on until level 0."""
        mx = self._mx
        if level > 1 and self._usual is None:
            self._usual = mx.set_cache_limit(TIGHT_MAX_BYTES)
            if self._usual < TIGHT_MAX_BYTES:
                mx.set_cache_limit(self._usual)
        if not level and self._usual is not None:
            mx.set_cache_limit(self._usual)
            self._usual = None
        if level:
            mx.clear_cache()
