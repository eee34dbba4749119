"""The engine with the real MiniLM, loaded once, and small models of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_worker.blas import load_blas
from mlx_mesh_worker.engines.embed import EmbedEngine
from tests.embed.driver import Driver
from tests.embed.folder import ModelFolder

load_blas()  # before any test imports MLX, as a worker does


@pytest.fixture(scope="session")
def _minilm() -> EmbedEngine:
    engine = EmbedEngine()
    engine.load()
    engine.warm()
    return engine


@pytest.fixture
def minilm(_minilm: EmbedEngine) -> Driver:
    """A runner around the real model; every test leaves the engine empty."""
    return Driver(_minilm)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ModelFolder]:
    """Make small model folders by what differs from the plain one."""

    def make(name: str = "small", **differences: Any) -> ModelFolder:
        return ModelFolder(tmp_path / name, **differences)

    return make


@pytest.fixture
def small(make: Callable[..., ModelFolder]) -> Driver:
    """A runner around a small model whose batches are as small as they get: 64 padded tokens, 8 short texts."""
    return Driver(make().engine(), smallest_batches=True)
