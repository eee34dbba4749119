"""Loads the tensors of a BERT-family checkpoint and lays them out for the encoder."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from mlx_mesh_worker.engine import EngineLoadError

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_mesh_worker.engines.embed.config import EncoderConfig

PREFIXES: Final = ("", "bert.", "roberta.", "model.")
_HEADER_MAX_BYTES: Final = 100_000_000
"""The bound that the safetensors format itself sets."""


def load_weights(folder: Path, config: EncoderConfig) -> dict[str, mx.array]:
    """Return the encoder's tensors in float32, without the checkpoint's prefix.

    Raises:
        EngineLoadError: naming the file, or the tensor and its shape.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise EngineLoadError(f"{folder} holds no *.safetensors")
    raw: dict[str, mx.array] = {}
    origin: dict[str, Path] = {}
    for path in files:
        _check_file(path)
        try:
            loaded = mx.load(str(path))
        except RuntimeError as error:
            raise EngineLoadError(f"{path} cannot be loaded: {error}") from error
        raw.update(loaded)  # type: ignore[arg-type]
        origin.update(dict.fromkeys(loaded, path))  # type: ignore[arg-type]
    word = "embeddings.word_embeddings.weight"
    prefix = next((prefix for prefix in PREFIXES if prefix + word in raw), None)
    if prefix is None:
        raise EngineLoadError(f"{folder}: tensor {word} is missing; this is not a checkpoint of the BERT family")
    found = {name: _take(folder, raw, prefix + name, shape) for name, shape in _shapes(config).items()}
    _refuse_left_over(folder, origin, prefix, config)
    rows = found[word].shape[0]
    if config.pad_id >= rows:
        raise EngineLoadError(f"{folder / 'config.json'}: pad_token_id is {config.pad_id}, there are {rows} embeddings")
    mx.eval(list(found.values()))
    return found


def _take(folder: Path, raw: dict[str, mx.array], name: str, shape: tuple[int, ...]) -> mx.array:
    tensor = raw.get(name)
    if tensor is None:
        raise EngineLoadError(f"{folder}: tensor {name} is missing")
    given = tuple(tensor.shape)
    if len(given) != len(shape) or any(wanted not in (-1, size) for wanted, size in zip(shape, given, strict=True)):
        raise EngineLoadError(f"{folder}: tensor {name} has shape {given}, config.json asks for {shape}")
    if not mx.issubdtype(tensor.dtype, mx.floating):
        raise EngineLoadError(f"{folder}: tensor {name} is {tensor.dtype}, must be of a floating type")
    return tensor.astype(mx.float32)


def _refuse_left_over(folder: Path, origin: dict[str, Path], prefix: str, config: EncoderConfig) -> None:
    """Raise if a layer has tensors that would not be used: the vectors would not be those of the checkpoint."""
    layers = prefix + "encoder.layer."
    known = {prefix + name for name in _shapes(config)}
    for name in sorted(name for name in origin if name.startswith(layers) and name not in known):
        number = name.removeprefix(layers).partition(".")[0]
        if number.isdecimal() and int(number) >= config.layers:
            where = f"{folder / 'config.json'}: num_hidden_layers is {config.layers}"
            raise EngineLoadError(f"{where}, but {origin[name].name} has tensor {name}")
        raise EngineLoadError(f"{origin[name]} has tensor {name}, which no layer of this family has")


def _shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, wide = config.hidden, config.intermediate
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (-1, hidden),
        "embeddings.position_embeddings.weight": (config.positions, hidden),
        "embeddings.token_type_embeddings.weight": (-1, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(config.layers):
        base = f"encoder.layer.{layer}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes[f"{base}{name}.weight"] = (hidden, hidden)
            shapes[f"{base}{name}.bias"] = (hidden,)
        shapes[base + "intermediate.dense.weight"] = (wide, hidden)
        shapes[base + "intermediate.dense.bias"] = (wide,)
        shapes[base + "output.dense.weight"] = (hidden, wide)
        shapes[base + "output.dense.bias"] = (hidden,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{base}{name}.weight"] = shapes[f"{base}{name}.bias"] = (hidden,)
    return shapes


def _check_file(path: Path) -> None:
    """Raise if the file is shorter than its header says: a download that broke off looks like this."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_MAX_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        needed = 8 + length + _data_bytes(header)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise EngineLoadError(f"{path} is not a safetensors file: {error}") from error
    if size < needed:
        raise EngineLoadError(f"{path} is truncated: it has {size} bytes, its header asks for {needed}")


def _data_bytes(header: dict[str, Any]) -> int:
    return max((int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0)
