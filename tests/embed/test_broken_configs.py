"""A model folder whose configuration is not supported or not sound is refused by file, field and value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_mesh_worker.engine import EngineLoadError
from mlx_mesh_worker.engines.embed import EmbedEngine
from tests.embed.folder import ROBERTA, ModelFolder, tokenizer

Make = Callable[..., ModelFolder]


def refusal(path: Path) -> str:
    """Return what a worker would say of this folder."""
    with pytest.raises(EngineLoadError) as caught:
        EmbedEngine(str(path)).load()
    return str(caught.value)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "mpnet"}, "model_type is 'mpnet'; supported: bert, roberta, xlm-roberta"),
    ({"model_type": "qwen3"}, "model_type is 'qwen3'"),
    ({"model_type": None}, "model_type is None"),
    ({"model_type": ["bert"]}, "model_type is ['bert']"),
    ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; supported: gelu, relu"),
    ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ({"hidden_act": None}, "hidden_act is None"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'; only absolute"),
    ({"position_embedding_type": "rotary"}, "position_embedding_type is 'rotary'"),
    ({"hidden_size": None}, "hidden_size is None, must be a positive integer"),
    ({"hidden_size": "16"}, "hidden_size is '16'"),
    ({"hidden_size": 16.0}, "hidden_size is 16.0"),
    ({"hidden_size": 18}, "hidden_size 18 is not a multiple of num_attention_heads 4"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    ({"intermediate_size": None}, "intermediate_size is None"),
    ({"max_position_embeddings": None}, "max_position_embeddings is None"),
    ({**ROBERTA, "max_position_embeddings": 2}, "max_position_embeddings is 2, must be over 2 for roberta"),
    ({"pad_token_id": "0"}, "pad_token_id is '0', must be an integer from 0"),
    ({"pad_token_id": -1}, "pad_token_id is -1"),
    ({"pad_token_id": 30}, "pad_token_id is 30, there are 30 embeddings"),
    ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small', must be a number from 0 to 1"),
    ({"layer_norm_eps": -1e-5}, "layer_norm_eps is -1e-05"),
    ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
]


@pytest.mark.parametrize(("config", "text"), CONFIGS, ids=[text for _, text in CONFIGS])
def test_a_field_of_config_json_that_is_not_supported_is_named_with_its_value(
    make: Make, config: dict[str, Any], text: str
) -> None:
    folder = make(config=config)
    told = refusal(folder.path)
    assert told.startswith(f"{folder.path}/config.json: ")
    assert text in told


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(make: Make, name: str) -> None:
    folder = make()
    (folder.path / name).unlink()
    assert f"{folder.path / name} is missing" == refusal(folder.path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 10_000], ids=["empty", "cut", "latin-1", "deep"])
def test_a_file_that_is_not_json_is_named(make: Make, name: str, text: str) -> None:
    folder = make()
    (folder.path / name).write_bytes(text.encode("latin-1"))
    assert refusal(folder.path).startswith(f"{folder.path / name} cannot be read: ")


@pytest.mark.parametrize("name", ["config.json", "sentence_bert_config.json"])
def test_a_file_that_holds_no_object_is_named(make: Make, name: str) -> None:
    folder = make()
    folder.write(name, [1])
    assert f"{folder.path / name} does not hold a JSON object" == refusal(folder.path)


def test_a_tokenizer_of_a_kind_that_is_not_known_is_named(make: Make) -> None:
    folder = make()
    folder.write("tokenizer.json", {"version": "1.0", "model": {"type": "Runes"}})
    assert f"{folder.path}/tokenizer.json cannot be read" in refusal(folder.path)


@pytest.mark.parametrize("given", [0, -5, "256", 1.5, True])
def test_a_longest_text_that_is_no_length_is_named(make: Make, given: Any) -> None:
    folder = make()
    folder.write("sentence_bert_config.json", {"max_seq_length": given})
    told = refusal(folder.path)
    assert f"{folder.path}/sentence_bert_config.json: max_seq_length is {given!r}, must be a positive integer" == told


def test_a_longest_text_without_room_for_a_word_is_refused(make: Make) -> None:
    folder = make()
    folder.write("sentence_bert_config.json", {"max_seq_length": 2})
    assert "an input of 2 tokens has no room beside the 2 special tokens" in refusal(folder.path)


POOLINGS: list[tuple[dict[str, Any], str]] = [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pooling is cls + mean"),
    ({"pooling_mode_weightedmean_tokens": True}, "pooling is weightedmean"),
    ({"pooling_mode": "attention"}, "pooling is attention"),
    ({"pooling_mode": ["cls"]}, "pooling is ['cls']"),
]


@pytest.mark.parametrize(("pooling", "text"), POOLINGS, ids=[text for _, text in POOLINGS])
def test_a_pooling_that_is_not_supported_is_named(make: Make, pooling: dict[str, Any], text: str) -> None:
    folder = make(modules=["Transformer", "Pooling"], pooling=pooling)
    told = refusal(folder.path)
    assert told.startswith(f"{folder.path}/1_Pooling/config.json: {text}; supported: one of mean, cls")


def test_a_pooling_module_without_its_folder_is_told_by_the_file_that_is_missing(make: Make) -> None:
    folder = make(modules=["Transformer", "Pooling"])
    assert f"{folder.path}/1_Pooling/config.json is missing" == refusal(folder.path)


@pytest.mark.parametrize("kind", ["Dense", "WeightedLayerPooling", "CLIPModel"])
def test_a_module_that_would_change_the_vectors_is_not_skipped(make: Make, kind: str) -> None:
    folder = make(modules=["Transformer", "Pooling", kind], pooling={})
    told = refusal(folder.path)
    assert f"{folder.path}/modules.json: module {kind} is not supported; supported: Transformer" in told


NO_MODULES: list[Any] = [
    "{",
    "[" * 10_000,
    {},
    {"0": "Transformer"},
    [],
    '""',
    '"Transformer"',
    [1],
    [[]],
    [{}],
    [{"type": "x.Pooling"}],
    [{"type": "x.Pooling", "path": None}],
    [{"type": ["x.Pooling"], "path": "1_Pooling"}],
    3,
    None,
    False,
]


@pytest.mark.parametrize("value", NO_MODULES, ids=repr)
def test_modules_that_are_no_list_of_modules_are_refused(make: Make, value: Any) -> None:
    folder = make()
    folder.write("modules.json", value)
    told = refusal(folder.path)
    assert told.startswith(f"{folder.path}/modules.json is not a list of modules with type and path")


def test_a_transformer_in_another_folder_is_not_taken_from_this_one(make: Make) -> None:
    folder = make(pooling={})
    folder.write(
        "modules.json", [{"type": "x.Transformer", "path": "0_BERT"}, {"type": "x.Pooling", "path": "1_Pooling"}]
    )
    assert f"{folder.path}/modules.json: path of Transformer is '0_BERT'" in refusal(folder.path)


@pytest.mark.parametrize("name", ["modules.json", "sentence_bert_config.json", "1_Pooling"])
def test_a_link_to_a_file_that_is_gone_does_not_count_as_no_file(make: Make, name: str) -> None:
    """Caches of downloads are made of links; without the file the vectors would be others."""
    folder = make()
    (folder.path / name).symlink_to(folder.path / "gone")
    assert f"{folder.path}/{name}" in refusal(folder.path)


def test_a_tokenizer_with_more_tokens_than_the_weights_have_is_refused(make: Make) -> None:
    """The vector of such a token would be whatever lies in memory behind the weights."""
    folder = make()
    grown = tokenizer()
    grown.add_tokens(["one-more"])
    grown.save(str(folder.path / "tokenizer.json"))
    told = refusal(folder.path)
    assert f"{folder.path}/tokenizer.json has token ids up to 30, the weights have word embeddings for 30" == told
