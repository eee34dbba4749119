"""What MLX says of its memory. ``mx`` is ``mlx.core``, which is imported after its BLAS and not here."""

from __future__ import annotations

from typing import Any


def figures(mx: Any) -> dict[str, int]:
    """Return MLX's own counters in bytes, and ``mlx_limit`` where the device recommends a working set."""
    working_set = device_working_set(mx)
    return {
        "mlx_active": mx.get_active_memory(),
        "mlx_cache": mx.get_cache_memory(),
        "mlx_peak": mx.get_peak_memory(),
        **({"mlx_limit": working_set} if working_set else {}),
    }


def device_working_set(mx: Any) -> int:
    """Return the bytes that the device recommends to use; 0 where it does not say."""
    if not (mx.metal.is_available() or mx.cuda.is_available()):
        return 0
    info: dict[str, Any] = dict(mx.device_info())
    return int(info.get("max_recommended_working_set_size") or info.get("total_memory") or info.get("memory_size") or 0)
