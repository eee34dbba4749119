"""The engines that come with mlx-mesh, and how to find others."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from mlx_mesh_worker.engine import Engine, EngineLoadError

BUILT_IN = {
    "echo": "mlx_mesh_worker.engines.echo:EchoEngine",
    "embed": "mlx_mesh_worker.engines.embed:EmbedEngine",
    "generate": "mlx_mesh_worker.engines.generate:GenerateEngine",
}
NEEDS = {"embed": ("mlx", "tokenizers"), "generate": ("mlx", "mlx_lm")}
"""What the extra ``worker`` brings for them."""

SETTINGS = {"generate": "mlx_mesh_worker.engines.generate.settings:GenerateSettings"}
"""Where the settings of those are described that have any; the section of ``mesh.toml`` has the engine's name."""

ALLOWED = f"{', '.join(BUILT_IN)} or package.module:Class"
"""What ``--engine`` may say."""


def settings_of(name: str) -> type[Any] | None:
    """Return the class of an engine's own settings, or None if it has none."""
    module, _, cls = SETTINGS.get(name, "").partition(":")
    return getattr(importlib.import_module(module), cls) if module else None


def find_engine(name: str) -> type[Engine]:
    """Return the engine class that a name or ``package.module:Class`` stands for.

    Raises:
        EngineLoadError: saying what was not found and what is allowed.
    """
    missing = [module for module in NEEDS.get(name, ()) if importlib.util.find_spec(module) is None]
    if missing:
        raise EngineLoadError(f"engine {name!r} needs {' and '.join(missing)}; run: pip install 'mlx-mesh[worker]'")
    path = BUILT_IN.get(name, name)
    module_name, colon, class_name = path.partition(":")
    if not (module_name and colon and class_name):
        raise EngineLoadError(f"engine {name!r} is not allowed; allowed: {ALLOWED}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EngineLoadError(f"engine {name!r}: cannot import {module_name}: {error}") from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Engine)):
        what = "has no such class" if found is None else "is not a subclass of mlx_mesh_worker.engine.Engine"
        raise EngineLoadError(f"engine {name!r}: {class_name} {what} in {module.__file__}")
    return found
