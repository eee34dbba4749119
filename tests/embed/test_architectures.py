"""Model folders of the BERT family by their own configuration, against plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.embed.driver import Driver
from tests.embed.folder import ROBERTA, ModelFolder
from tests.embed.numpy_bert import hidden_states, pool, unit

TEXTS = ["w0", "w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16", "w17 w18 w19 w20 w21 w22 w23"]
BGE = {"modules": ["Transformer", "Pooling", "Normalize"], "pooling": {"pooling_mode_cls_token": True}}
E5 = {"modules": ["Transformer", "Pooling", "Normalize"], "pooling": {"pooling_mode_mean_tokens": True}}
GTE = {"modules": ["Transformer", "Pooling"], "pooling": {"pooling_mode_mean_tokens": True}}

Make = Callable[..., ModelFolder]


def expected(folder: ModelFolder, pooling: str, *, normalize: bool, texts: list[str] = TEXTS) -> Any:
    """Return the vectors of these texts by NumPy."""
    rows = [pool(hidden_states(folder.tensors, folder.config, folder.ids(text)), pooling) for text in texts]
    return np.array([unit(row) for row in rows] if normalize else rows)


def check(folder: ModelFolder, pooling: str, *, normalize: bool) -> None:
    """Compare texts of four lengths, in one batch and each alone, as the folder says and as a request says."""
    driver = Driver(folder.engine())
    wanted = expected(folder, pooling, normalize=normalize)
    assert np.allclose(wanted, driver.vectors(TEXTS), atol=2e-5)
    assert 1 == len(driver.steps)
    for text, vector in zip(TEXTS, wanted, strict=True):
        assert np.allclose(vector, driver.vectors([text])[0], atol=2e-5)
    other = expected(folder, pooling, normalize=not normalize)
    assert np.allclose(other, driver.vectors(TEXTS, normalize=not normalize), atol=2e-5)


@pytest.mark.parametrize(
    ("folder", "pooling", "normalize"),
    [(BGE, "cls", True), (E5, "mean", True), (GTE, "mean", False), ({}, "mean", False)],
    ids=["bge", "e5", "gte", "no-modules"],
)
def test_pooling_and_normalisation_are_those_of_the_folder(
    make: Make, folder: dict[str, Any], pooling: str, normalize: bool
) -> None:
    check(make(**folder), pooling, normalize=normalize)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("flag", "pooling"),
    [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ],
)
def test_every_pooling_takes_the_tokens_of_the_text_and_no_padding(
    make: Make, flag: str, pooling: str, normalize: bool
) -> None:
    modules = ["Transformer", "Pooling", *["Normalize"] * normalize]
    flags = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": False, flag: True}
    check(make(modules=modules, pooling=flags), pooling, normalize=normalize)


def test_pooling_may_be_named_in_one_field_and_is_the_mean_where_nothing_is_said(make: Make) -> None:
    modules = ["Transformer", "Pooling"]
    check(make("one", modules=modules, pooling={"pooling_mode": "max"}), "max", normalize=False)
    check(make("two", modules=modules, pooling={}), "mean", normalize=False)


def test_a_pooling_folder_counts_without_modules_json_too(make: Make) -> None:
    check(make(pooling={"pooling_mode_cls_token": True}), "cls", normalize=False)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
@pytest.mark.parametrize("pad_id", [1, 3])
def test_positions_of_roberta_begin_after_the_padding_id(make: Make, kind: str, pad_id: int) -> None:
    folder = make(config=ROBERTA | {"model_type": kind, "pad_token_id": pad_id}, prefix="roberta.")
    check(folder, "mean", normalize=False)
    assert 40 - pad_id - 1 == folder.engine().config.tokens_max


def test_without_a_padding_id_it_is_0_for_bert_and_1_for_roberta(make: Make) -> None:
    assert (0, 0) == offsets(make("bert", config={"pad_token_id": None}))
    assert (1, 2) == offsets(make("roberta", config=ROBERTA | {"pad_token_id": None}))


def offsets(folder: ModelFolder) -> tuple[int, int]:
    config = folder.engine().config
    return config.pad_id, config.position_offset


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("eps", [1e-12, 1e-2])
def test_activation_and_epsilon_are_those_of_the_folder(make: Make, activation: str, eps: float) -> None:
    check(make(config={"hidden_act": activation, "layer_norm_eps": eps}), "mean", normalize=False)


@pytest.mark.parametrize(
    "config",
    [{"num_attention_heads": 1}, {"num_attention_heads": 16}, {"layer_norm_eps": None}],
    ids=["one-head", "heads-of-one", "no-epsilon"],
)
def test_sizes_are_those_of_the_folder(make: Make, config: dict[str, Any]) -> None:
    check(make(config=config), "mean", normalize=False)


def test_one_layer_is_enough(make: Make) -> None:
    folder = make(config={"num_hidden_layers": 1})
    folder.tensors = {name: value for name, value in folder.tensors.items() if "layer.1." not in name}
    folder.save_tensors()
    check(folder, "mean", normalize=False)


def test_absolute_positions_may_be_named(make: Make) -> None:
    check(make(config={"position_embedding_type": "absolute"}), "mean", normalize=False)


@pytest.mark.parametrize("prefix", ["", "bert.", "roberta.", "model."])
def test_the_prefix_of_a_checkpoint_is_found(make: Make, prefix: str) -> None:
    check(make(prefix=prefix), "mean", normalize=False)


def test_weights_may_lie_in_several_files_with_others_among_them(make: Make) -> None:
    folder = make(shards=3)
    folder.tensors["pooler.dense.weight"] = np.zeros((16, 16), np.float32)
    folder.save_tensors()
    check(folder, "mean", normalize=False)


def test_weights_of_half_precision_are_computed_in_single(make: Make) -> None:
    check(make(kind="F16"), "mean", normalize=False)


def test_the_longest_text_that_positions_allow_is_read_whole(make: Make) -> None:
    """40 positions, two of them for the special tokens, are no multiple of a batch's width for RoBERTa."""
    for name, config in (("bert", {}), ("roberta", ROBERTA)):
        folder = make(name, config=config)
        most = folder.engine().config.tokens_max - 2
        texts = ["w1 w2 " * 10 + "w3 " * (most - 20), "w4"]
        result = Driver(folder.engine()).embed(texts)
        assert ([most + 2, 3], []) == (result["tokens"], result["truncated"])
        assert np.allclose(expected(folder, "mean", normalize=False, texts=texts), result["vectors"], atol=2e-5)


def test_the_model_is_served_under_the_name_of_its_folder(make: Make) -> None:
    folder = make("bge-tiny")
    engine = folder.engine()
    assert ("bge-tiny",) == engine.models
    assert "bge-tiny" == Driver(engine).embed(["w1"])["model"]
