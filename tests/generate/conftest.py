"""A tiny llama in mlx-lm's own format, made once, and an engine that has loaded it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.llama import make_llama
from mlx_mesh import Mesh
from mlx_mesh_worker.engines.generate import GenerateEngine
from tests.generate.driver import make_engine, texts_of
from tests.live import PATIENCE_S, LiveMesh, live_mesh


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("models") / "tiny-llama", "tiny")


@pytest.fixture(scope="session")
def loaded(llama: Path) -> GenerateEngine:
    return make_engine(llama)


@pytest.fixture
def engine(loaded: GenerateEngine) -> GenerateEngine:
    """The engine with nothing left of the test before."""
    texts = texts_of(loaded)
    for job in list(texts._rows):
        texts.cancel(job)
    texts.prefixes.clear()
    texts.prefixes.hits = texts.prefixes.saved_tokens = 0
    for name in texts.counts:
        texts.counts[name] = 0
    return loaded


@pytest.fixture(scope="module")
def live(llama: Path) -> Iterator[LiveMesh]:
    with live_mesh() as mesh:
        mesh.broker()
        for name in ("g0", "g1"):
            mesh.worker("generate", name, "--model", str(llama))
        with Mesh(mesh.endpoint) as client:
            client.ready(["generate", "chat"], timeout=3 * PATIENCE_S)
        yield mesh
