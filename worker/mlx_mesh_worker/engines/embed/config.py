"""Reads what a sentence-transformers folder says of its model. Imports no MLX."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_mesh_worker.engine import EngineLoadError

if TYPE_CHECKING:
    from pathlib import Path

MODEL_TYPES: Final = ("bert", "roberta", "xlm-roberta")
ACTIVATIONS: Final = ("gelu", "relu")
POOLINGS: Final = ("mean", "cls", "max", "mean_sqrt_len", "lasttoken")
_POOLING_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
MODULES: Final = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder and what is done with its output.

    Attributes:
        intermediate: width of the feed-forward layers.
        positions: rows of the position embeddings, of which the first ``position_offset`` are not used.
        tokens_max: longest input in tokens, special ones included.
        position_offset: number of the first position; RoBERTa counts from the padding id on.
        pooling: one of POOLINGS.
        normalize: whether the folder asks for vectors of length 1.
        lower: whether the folder asks for texts in lower case, besides what its tokenizer does.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    norm_eps: float
    activation: str
    pad_id: int
    position_offset: int
    tokens_max: int
    pooling: str
    normalize: bool
    lower: bool


def read_config(folder: Path) -> EncoderConfig:
    """Return the configuration of a model folder.

    Raises:
        EngineLoadError: naming the file and the field, what it holds and what is supported.
    """
    path = folder / "config.json"
    raw = _json(path)
    kind = _one_of(path, raw, "model_type", MODEL_TYPES)
    activation = _one_of(path, raw, "hidden_act", ACTIVATIONS)
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise EngineLoadError(
            f"{path}: position_embedding_type is {raw['position_embedding_type']!r}; only absolute is supported"
        )
    pad_id = _pad_id(path, raw, kind)
    offset = 0 if kind == "bert" else pad_id + 1
    hidden, heads = _size(path, raw, "hidden_size"), _size(path, raw, "num_attention_heads")
    if hidden % heads:
        raise EngineLoadError(f"{path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    pooling, normalize = _modules(folder)
    positions = _size(path, raw, "max_position_embeddings")
    if positions <= offset:
        raise EngineLoadError(f"{path}: max_position_embeddings is {positions}, must be over {offset} for {kind}")
    tokens_max, lower = _input(folder, positions - offset)
    return EncoderConfig(
        hidden=hidden,
        layers=_size(path, raw, "num_hidden_layers"),
        heads=heads,
        intermediate=_size(path, raw, "intermediate_size"),
        positions=positions,
        norm_eps=_norm_eps(path, raw),
        activation=activation,
        pad_id=pad_id,
        position_offset=offset,
        tokens_max=tokens_max,
        pooling=pooling,
        normalize=normalize,
        lower=lower,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineLoadError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise EngineLoadError(f"{path} does not hold a JSON object")
    return value


def _size(path: Path, raw: dict[str, Any], field: str) -> int:
    value = raw.get(field)
    if type(value) is not int or value < 1:
        raise EngineLoadError(f"{path}: {field} is {value!r}, must be a positive integer")
    return value


def _one_of(path: Path, raw: dict[str, Any], field: str, allowed: tuple[str, ...]) -> str:
    value = raw.get(field)
    if value not in allowed:
        raise EngineLoadError(f"{path}: {field} is {value!r}; supported: {', '.join(allowed)}")
    return str(value)


def _pad_id(path: Path, raw: dict[str, Any], kind: str) -> int:
    value = raw.get("pad_token_id")
    if value is None:
        return 0 if kind == "bert" else 1  # as transformers has it
    if type(value) is not int or value < 0:
        raise EngineLoadError(f"{path}: pad_token_id is {value!r}, must be an integer from 0")
    return value


def _norm_eps(path: Path, raw: dict[str, Any]) -> float:
    value = raw.get("layer_norm_eps", 1e-12)
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise EngineLoadError(f"{path}: layer_norm_eps is {value!r}, must be a number from 0 to 1")
    return float(value)


def _input(folder: Path, positions: int) -> tuple[int, bool]:
    """Return the longest input in tokens, and whether texts are put in lower case first."""
    path = folder / "sentence_bert_config.json"
    if not _present(path):
        return positions, False
    raw = _json(path)
    longest = positions if raw.get("max_seq_length") is None else _size(path, raw, "max_seq_length")
    return min(longest, positions), raw.get("do_lower_case") is True


def _modules(folder: Path) -> tuple[str, bool]:
    """Return pooling and normalisation as ``modules.json`` has them; mean without, as sentence-transformers does."""
    path = folder / "modules.json"
    if not _present(path):
        pooling_only = folder / "1_Pooling"
        return (_pooling(pooling_only) if _present(pooling_only) else "mean"), False
    pooling, normalize = "mean", False
    for kind, where in _module_list(path):
        if kind not in MODULES:
            raise EngineLoadError(f"{path}: module {kind} is not supported; supported: {', '.join(MODULES)}")
        if kind == "Transformer" and where != folder:
            raise EngineLoadError(f"{path}: path of Transformer is {where.name!r}; supported: only '', this folder")
        if kind == "Pooling":
            pooling = _pooling(where)
        normalize = normalize or kind == "Normalize"
    return pooling, normalize


def _present(path: Path) -> bool:
    """Whether it is there, be it as a link to nothing, as in a cache that lost files: that must not count as none."""
    return path.exists() or path.is_symlink()


def _module_list(path: Path) -> list[tuple[str, Path]]:
    """Return the kind and the folder of each module in ``modules.json``."""
    what = f"{path} is not a list of modules with type and path"
    try:
        modules = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineLoadError(f"{what}: {error}") from error
    if not isinstance(modules, list) or not modules:
        raise EngineLoadError(f"{what}: it holds {_shown(modules)}")
    for module in modules:
        fields = (module.get("type"), module.get("path")) if isinstance(module, dict) else ()
        if not fields or not all(isinstance(value, str) for value in fields):
            raise EngineLoadError(f"{what}: it has an entry {_shown(module)}")
    return [(module["type"].rpartition(".")[2], path.parent / module["path"]) for module in modules]


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


def _pooling(folder: Path) -> str:
    path = folder / "config.json"
    raw = _json(path)
    on = [name for flag, name in _POOLING_FLAGS.items() if raw.get(flag)] or [raw.get("pooling_mode", "mean")]
    if len(on) != 1 or on[0] not in POOLINGS:
        raise EngineLoadError(f"{path}: pooling is {' + '.join(map(str, on))}; supported: one of {', '.join(POOLINGS)}")
    return str(on[0])
