"""Small model folders of random weights, in sentence-transformers' format, whole or broken in one place."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from mlx_mesh_worker.engines.embed import EmbedEngine

WORDS = [f"w{index}" for index in range(26)]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "vocab_size": 30,
}
ROBERTA: dict[str, Any] = {"model_type": "roberta", "pad_token_id": 1, "layer_norm_eps": 1e-5}
KINDS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I8": np.dtype("<i1")}

Tensors = dict[str, NDArray[Any]]


class ModelFolder:
    """A folder with all that a model needs, by default a BERT without ``modules.json``.

    Args:
        path: where to make it.
        config: fields of ``config.json`` that differ from CONFIG; None removes a field.
        pooling: what ``1_Pooling/config.json`` holds; None leaves the file away.
        modules: kinds of modules in ``modules.json``; None leaves the file away.
        special: whether the tokenizer puts its special tokens around a text.
        prefix: of the names of tensors.
        kind: of the numbers in ``model.safetensors``.
        shards: number of files that the tensors are spread over.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: dict[str, Any] | None = None,
        pooling: dict[str, Any] | None = None,
        modules: list[str] | None = None,
        special: bool = True,
        prefix: str = "",
        kind: str = "F32",
        shards: int = 1,
    ) -> None:
        path.mkdir()
        self.path = path
        self.config = {key: value for key, value in (CONFIG | (config or {})).items() if value is not None}
        self.write("config.json", self.config)
        self.roberta = self.config.get("model_type") != "bert"
        tokenizer(roberta=self.roberta, special=special).save(str(path / "tokenizer.json"))
        if pooling is not None:
            (path / "1_Pooling").mkdir()
            self.write("1_Pooling/config.json", pooling)
        if modules is not None:
            places = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
            self.write(
                "modules.json",
                [{"type": f"sentence_transformers.models.{each}", "path": places.get(each, "x")} for each in modules],
            )
        self.kind = kind
        self.prefix = prefix
        self.shards = shards
        self.tensors = {name: value.astype(KINDS[kind]) for name, value in random_tensors(CONFIG).items()}
        self.save_tensors()

    def write(self, name: str, value: Any) -> Path:
        """Write a JSON file, or a text as it is."""
        path = self.path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    def save_tensors(self) -> None:
        """Write the tensors as they are now."""
        for old in self.path.glob("*.safetensors"):
            old.unlink()
        named = [(self.prefix + name, value) for name, value in self.tensors.items()]
        for shard in range(self.shards):
            name = "model.safetensors" if self.shards == 1 else f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"
            save(self.path / name, dict(named[shard :: self.shards]), self.kind)

    def engine(self) -> EmbedEngine:
        """Return an engine that has loaded this folder and is warm."""
        engine = EmbedEngine(str(self.path))
        engine.load()
        engine.warm()
        return engine

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text of WORDS, told by hand."""
        first, last = (0, 2) if self.roberta else (2, 3)
        return [first, *[4 + WORDS.index(word) for word in text.split()], last]


def tokenizer(*, roberta: bool = False, special: bool = True) -> Tokenizer:
    """Return a tokenizer of whole words."""
    names = ROBERTA_SPECIAL if roberta else BERT_SPECIAL
    unknown, first, last = (names[3], names[0], names[2]) if roberta else (names[1], names[2], names[3])
    vocabulary = {word: index for index, word in enumerate([*names, *WORDS])}
    made = Tokenizer(WordLevel(vocabulary, unk_token=unknown))
    made.pre_tokenizer = Whitespace()
    if special:
        ends = [(first, vocabulary[first]), (last, vocabulary[last])]
        made.post_processor = TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    return made


def random_tensors(config: dict[str, Any], seed: int = 1) -> Tensors:
    """Return tensors by BERT's names; large enough that attention is far from even."""
    random = np.random.default_rng(seed)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings": (config["vocab_size"], hidden),
        "embeddings.position_embeddings": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings": (2, hidden),
    }
    tensors: Tensors = {f"{name}.weight": random.normal(0, 1, shape) for name, shape in shapes.items()}
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        base = f"encoder.layer.{layer}."
        sizes = {f"attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (hidden, hidden)}
        sizes |= {"intermediate.dense": (wide, hidden), "output.dense": (hidden, wide)}
        for name, (outputs, inputs) in sizes.items():
            tensors[f"{base}{name}.weight"] = random.normal(0, 0.4, (outputs, inputs))
            tensors[f"{base}{name}.bias"] = random.normal(0, 0.2, outputs)
        norms += [f"{base}attention.output.LayerNorm", f"{base}output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = random.normal(1, 0.2, hidden)
        tensors[f"{name}.bias"] = random.normal(0, 0.2, hidden)
    return tensors


def save(path: Path, tensors: Tensors, kind: str) -> None:
    """Write a safetensors file: the length of the header, the header, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in tensors.items():
        raw = value.astype(KINDS[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
