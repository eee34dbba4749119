"""What the ``generate`` engine can be told; the ``[generate]`` section of ``mesh.toml``."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_mesh_wire.settings import setting

TIB = 2**40
ROWS_MAX = 256


@dataclass(frozen=True)
class GenerateSettings:
    """Bytes and seconds unless the name says otherwise."""

    model: str = setting(
        "", help="what to serve, with commas between several; the first is the default; before [worker]"
    )
    adapter: str = setting("", help="a folder with a LoRA adapter for the first model")
    draft_model: str = setting("", help="a smaller model of the same vocabulary that guesses ahead for the first model")
    draft_tokens: int = setting(3, low=1, high=32, help="guesses in a round of the draft model")
    rows: int = setting(32, low=1, high=ROWS_MAX, help="texts that grow together; on small models more add little")
    gap_ms: float = setting(50.0, low=1, high=10_000, help="time between two tokens that reading prompts respects")
    prefix_max_bytes: int = setting(512 * 2**20, low=0, high=TIB, help="caches of texts read before; 0 keeps none")
    kv_max_bytes: int | str = setting(
        "auto", low=2**20, high=TIB, words=("auto",), help="key-value caches of all texts, prefixes included"
    )
    cache_limit: int | str = setting(
        "auto", low=0, high=TIB, words=("auto", "off"), help="freed buffers that MLX keeps for the next step"
    )
    wired_limit: int | str = setting(
        "off", low=0, high=TIB, words=("off", "auto"), help="memory that macOS may not page out"
    )
    keep_alive_s: float = setting(600.0, low=1, high=864_000, help="how long a further model stays when unused")
