"""Weights that are missing, cut, corrupt or of the wrong shape are refused by file or tensor."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.embed.folder import ModelFolder
from tests.embed.test_broken_configs import refusal

Make = Callable[..., ModelFolder]
WORDS = "embeddings.word_embeddings.weight"


def test_a_folder_without_weights_is_named(make: Make) -> None:
    folder = make()
    (folder.path / "model.safetensors").rename(folder.path / "pytorch_model.bin")
    assert f"{folder.path} holds no *.safetensors" == refusal(folder.path)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.3])
def test_a_download_that_broke_off_is_told_by_the_sizes(make: Make, share: float) -> None:
    folder = make()
    path = folder.path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    told = refusal(folder.path)
    assert f"{path} is truncated: it has {int(len(whole) * share)} bytes, its header asks for {len(whole)}" == told


def entry(**changes: Any) -> dict[str, Any]:
    return {WORDS: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


def file_of(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


FILES: dict[str, bytes] = {
    "empty": b"",
    "seven-bytes": b"\x10" + bytes(6),
    "git-lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "header-cut": struct.pack("<Q", 1000) + b'{"a": {"dty',
    "header-not-json": file_of(b"\xff\xfe{}"),
    "header-deep": file_of(b"[" * 100_000),
    "header-array": file_of([1, 2]),
    "entry-array": file_of({WORDS: [1]}),
    "entry-null": file_of({WORDS: None}),
    "no-offsets": file_of({WORDS: {"dtype": "F32", "shape": [2, 2]}}),
    "one-offset": file_of(entry(data_offsets=[0])),
    "offset-text": file_of(entry(data_offsets=[0, "end"])),
    "shape-over-data": file_of(entry(shape=[1000, 1000])),
    "shape-negative": file_of(entry(shape=[-4])),
    "shape-text": file_of(entry(shape="2x2")),
    "dtype-unknown": file_of(entry(dtype="F128")),
    "dtype-missing": file_of({WORDS: {"shape": [2, 2], "data_offsets": [0, 16]}}),
    "offsets-crossed": file_of(entry(data_offsets=[16, 0])),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_that_is_no_safetensors_file_is_named(make: Make, data: bytes) -> None:
    folder = make()
    path = folder.path / "model.safetensors"
    path.write_bytes(data)
    told = refusal(folder.path)
    assert told.startswith(f"{path} ")
    assert "is not a safetensors file: " in told or "cannot be loaded: " in told


def test_one_broken_file_among_several_is_named(make: Make) -> None:
    folder = make(shards=3)
    path = folder.path / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} is truncated" in refusal(folder.path)


def test_a_missing_file_of_several_is_told_by_a_tensor_that_is_missing(make: Make) -> None:
    folder = make(shards=3)
    (folder.path / "model-00003-of-00003.safetensors").unlink()
    told = refusal(folder.path)
    assert told.startswith(f"{folder.path}: tensor ")
    assert told.endswith(" is missing")


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_every_tensor_is_needed_and_named_as_the_checkpoint_names_it(make: Make, prefix: str) -> None:
    folder = make(prefix=prefix)
    whole = dict(folder.tensors)
    for name in whole:
        folder.tensors = {other: value for other, value in whole.items() if other != name}
        folder.save_tensors()
        shown = name if name == WORDS else prefix + name
        assert f"{folder.path}: tensor {shown} is missing" in refusal(folder.path)


def test_every_tensor_must_have_the_shape_that_config_json_asks_for(make: Make) -> None:
    folder = make()
    whole = dict(folder.tensors)
    for name, value in whole.items():
        odd = np.zeros([*value.shape[:-1], value.shape[-1] + 1], np.float32)
        folder.tensors = whole | {name: odd}
        folder.save_tensors()
        told = refusal(folder.path)
        assert f"{folder.path}: tensor {name} has shape {odd.shape}, config.json asks for " in told


@pytest.mark.parametrize("shape", [(16,), (30, 16, 1), ()])
def test_a_tensor_with_another_number_of_axes_is_refused(make: Make, shape: tuple[int, ...]) -> None:
    folder = make()
    folder.tensors[WORDS] = np.zeros(shape, np.float32)
    folder.save_tensors()
    assert f"tensor {WORDS} has shape {shape}, config.json asks for (-1, 16)" in refusal(folder.path)


@pytest.mark.parametrize("rows", [39, 41])
def test_there_are_as_many_position_embeddings_as_config_json_says(make: Make, rows: int) -> None:
    """With fewer, a text that the configuration allows would read beyond them."""
    folder = make()
    name = "embeddings.position_embeddings.weight"
    folder.tensors[name] = np.zeros((rows, 16), np.float32)
    folder.save_tensors()
    assert f"tensor {name} has shape ({rows}, 16), config.json asks for (40, 16)" in refusal(folder.path)


def test_fewer_layers_than_config_json_says_are_refused(make: Make) -> None:
    folder = make(config={"num_hidden_layers": 3})
    assert "tensor encoder.layer.2." in refusal(folder.path)


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("shards", [1, 3])
def test_more_layers_than_config_json_says_are_refused(make: Make, prefix: str, shards: int) -> None:
    """They would be left out, and the vectors would be others."""
    folder = make(config={"num_hidden_layers": 1}, prefix=prefix, shards=shards)
    told = refusal(folder.path)
    assert told.startswith(f"{folder.path}/config.json: num_hidden_layers is 1, but model")
    assert f".safetensors has tensor {prefix}encoder.layer.1." in told


def test_a_layer_with_more_than_its_tensors_is_refused(make: Make) -> None:
    folder = make()
    folder.tensors["encoder.layer.0.attention.self.query.lora_A"] = np.zeros((4, 16), np.float32)
    folder.save_tensors()
    told = refusal(folder.path)
    assert told.startswith(f"{folder.path}/model.safetensors has tensor encoder.layer.0.attention.self.query.lora_A, ")


def test_tensors_beside_the_encoder_are_not_minded(make: Make) -> None:
    """The pooler and the heads of pre-training take no part in embeddings."""
    folder = make(prefix="bert.")
    for name in ("pooler.dense.weight", "embeddings.position_ids"):
        folder.tensors[name] = np.zeros((16, 16), np.float32)
    folder.save_tensors()
    assert 16 == folder.engine()._encoder.dimension


def test_quantised_weights_are_refused_and_not_read_as_numbers(make: Make) -> None:
    folder = make(kind="I8")
    assert f"tensor {WORDS} is mlx.core.int8, must be of a floating type" in refusal(folder.path)
