"""The embed engine in a real worker behind a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mlx_mesh import Mesh
from mlx_mesh_wire import InvalidRequestError, TooLargeError
from tests.embed.driver import Driver, decoded
from tests.embed.folder import ModelFolder
from tests.embed.test_reference import REFERENCE, TEXTS
from tests.live import PATIENCE_S, LiveMesh, live_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CALL_S = 4 * PATIENCE_S
"""Long texts take seconds where MLX has no fast BLAS, and many times that beside others."""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveMesh]:
    with live_mesh() as live:
        live.broker()
        live.worker("embed", "embed")
        with Mesh(live.endpoint) as client:
            client.ready(["embed"], timeout=CALL_S)
        yield live


@pytest.fixture
def mesh(live: LiveMesh) -> Iterator[Mesh]:
    with Mesh(live.endpoint) as client:
        yield client


def test_vectors_through_the_mesh_are_those_of_the_engine_called_directly(mesh: Mesh, minilm: Driver) -> None:
    direct = minilm.embed(TEXTS)
    through = mesh.embed(TEXTS, timeout=CALL_S)
    assert np.allclose(direct["vectors"], through.numpy(), atol=1e-5)
    assert np.allclose(REFERENCE, through.numpy(), atol=1e-5)
    assert (direct["tokens"], direct["truncated"]) == (list(through.tokens), list(through.truncated))
    assert direct["model"] == through.model


def test_normalisation_can_be_turned_off_through_the_mesh(mesh: Mesh, minilm: Driver) -> None:
    off = mesh.embed(TEXTS[:3], normalize=False, timeout=CALL_S).numpy()
    assert np.allclose(minilm.vectors(TEXTS[:3], normalize=False), off, atol=1e-5)
    assert np.linalg.norm(off, axis=1).min() > 2


@pytest.mark.parametrize("model", ["", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_model_is_found_by_its_full_its_short_and_no_name(mesh: Mesh, model: str) -> None:
    assert 384 == mesh.embed("hello", model=model).dimension


def test_bad_texts_among_good_ones_fail_their_own_requests_and_no_other(mesh: Mesh) -> None:
    """The bodies are sent as they are; ``mesh.embed`` would not send the bad ones."""
    bodies = [{"texts": [TEXTS[index]]} for index in range(6)]
    bodies[1] = {"texts": ["good", ""]}
    bodies[4] = {"texts": ["b" * 1_048_577]}
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(mesh.call, "embed", body, timeout=CALL_S) for body in bodies]
        with pytest.raises(InvalidRequestError, match=r"texts\[1\] is empty") as caught:
            calls[1].result()
        assert {"field": "texts", "index": 1} == caught.value.details
        with pytest.raises(TooLargeError) as over:
            calls[4].result()
        assert {"field": "texts", "index": 0, "limit": 1_048_576} == over.value.details
        for index in (0, 2, 3, 5):
            assert np.allclose(REFERENCE[index], decoded(calls[index].result())["vectors"][0], atol=1e-5)


def test_many_requests_at_once_have_the_vectors_they_would_have_one_by_one(mesh: Mesh) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: mesh.embed(text, timeout=CALL_S).numpy()[0], TEXTS * 2))
    assert np.allclose(np.concatenate([REFERENCE, REFERENCE]), found, atol=1e-5)


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_worker_with_a_broken_model_folder_exits_and_names_the_file(
    live: LiveMesh, mesh: Mesh, tmp_path: Path, broken: str
) -> None:
    path = ModelFolder(tmp_path / "broken").path / broken
    path.write_bytes(path.read_bytes()[:-20])
    process = live.worker("embed", f"bad-{broken}", "--model", str(path.parent))
    assert 78 == process.wait(2 * PATIENCE_S)
    log = live.log(f"bad-{broken}")
    assert "cannot_load" in log
    assert str(path) in log
    assert 384 == mesh.embed("the other worker goes on").dimension


def test_a_worker_whose_weights_are_not_finite_exits_before_it_serves(live: LiveMesh, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "spoiled")
    folder.tensors["embeddings.LayerNorm.bias"][0] = np.nan
    folder.save_tensors()
    process = live.worker("embed", "spoiled", "--model", str(folder.path))
    assert 78 == process.wait(2 * PATIENCE_S)
    assert "model spoiled gives vectors that are not finite" in live.log("spoiled")
